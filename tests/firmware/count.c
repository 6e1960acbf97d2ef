/* A plugin of QEMU (API 1) that counts the instructions it executes, in all and in each function.
   The few declarations it needs of QEMU's header stand here, so that no header need be installed.
     cc -O2 -shared -fPIC -o count.so count.c
     qemu-system-arm -plugin count.so,out=FILE,top=N ... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct block *);
struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
const char *qemu_plugin_insn_symbol(const struct instruction *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct instruction *, int op, void *, uint64_t);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { ADD = 0, FUNCTIONS = 4096 };

/* Of each function, the first for what has no name. */
static struct function { const char *name; uint64_t count; } functions[FUNCTIONS];
static int known = 1, top;
static const char *out;

static uint64_t *counter(const char *name) {
    if (!name) return &functions[0].count;
    for (int i = 1; i < known; i++)
        if (!strcmp(functions[i].name, name)) return &functions[i].count;
    if (known == FUNCTIONS) return &functions[0].count;
    functions[known].name = strdup(name);
    return &functions[known++].count;
}

static void translated(plugin_id id, struct block *block) {
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct instruction *one = qemu_plugin_tb_get_insn(block, i);
        uint64_t *count = counter(qemu_plugin_insn_symbol(one));
        qemu_plugin_register_vcpu_insn_exec_inline(one, ADD, count, 1);
    }
}

static int more(const void *a, const void *b) {
    uint64_t x = ((const struct function *)a)->count, y = ((const struct function *)b)->count;
    return (x < y) - (x > y);
}

static void ended(plugin_id id, void *none) {
    (void)id, (void)none;
    FILE *to = out ? fopen(out, "w") : stderr;
    if (!to) return;
    uint64_t all = 0;
    for (int i = 0; i < known; i++) all += functions[i].count;
    fprintf(to, "instructions %llu\n", (unsigned long long)all);
    functions[0].name = "(no name)";
    qsort(functions, known, sizeof *functions, more);
    for (int i = 0; i < known && i < top; i++)
        fprintf(to, "%14llu %s\n", (unsigned long long)functions[i].count, functions[i].name);
    fclose(to);
}

__attribute__((visibility("default")))
int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
    (void)info;
    for (int i = 0; i < count; i++) {
        if (!strncmp(arguments[i], "out=", 4)) out = strdup(arguments[i] + 4);
        if (!strncmp(arguments[i], "top=", 4)) top = atoi(arguments[i] + 4);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
