//! The core's kernels and ops: every instruction set against plain code, ops against plain loops,
//! PyTorch and each other, and the noise. `kernels` and `products` are compiled for WebAssembly by
//! themselves (`../wasm`), so they use nothing of the others.

mod attention;
mod bands;
mod kernels;
mod limits;
mod noise;
mod observer;
mod op_goldens;
mod op_gradients;
mod ops;
mod ops_properties;
mod packed_ops;
mod plain;
mod products;
mod register_loop;
