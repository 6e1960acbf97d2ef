// Runs a program compiled for WASI: node wasi.mjs PROGRAM [ARGUMENT]…
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const args = process.argv.slice(2);
const preopens = { ".": ".", "../golden": "../golden" };
const wasi = new WASI({ version: "preview1", args, preopens, returnOnExit: false });
const program = await WebAssembly.compile(await readFile(args[0]));
wasi.start(await WebAssembly.instantiate(program, wasi.getImportObject()));
