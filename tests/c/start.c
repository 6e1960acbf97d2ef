/* From reset to newlib's start, on a Cortex-M with or without a floating-point unit: the vector
 * table, and what must be switched on before C may begin. */
#include <stdint.h>

extern uint32_t stack_top[];
extern void _start(void);

void reset(void);
void fault(void);
unsigned long stack_bytes(void);

/* What the stack is painted with, and how much of it. */
#define PAINT 0xA5A5A5A5u
#define PAINTED_BYTES (64u * 1024)

/* Words that the painter itself may be using. */
#define SPARED_BYTES 128u

static uintptr_t stack_begin;

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,      (uintptr_t)fault, (uintptr_t)fault,
};

void reset(void)
{
    /* Not the words that this function itself may use. */
#if defined(__ARM_FP)
    /* CPACR: full access to coprocessors 10 and 11. */
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
    __asm volatile("dsb\nisb");
#endif
    _start();
}

/* Before main, when newlib has set the stack's place. */
__attribute__((constructor)) static void paint_stack(void)
{
    uintptr_t at;
    stack_begin = (uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)3;
    for (at = stack_begin - PAINTED_BYTES; at < stack_begin - SPARED_BYTES; at += 4)
        *(volatile uint32_t *)at = PAINT;
}

/* The most bytes of the stack that were ever used from there on. */
unsigned long stack_bytes(void)
{
    uintptr_t at = stack_begin - PAINTED_BYTES;
    while (at < stack_begin && *(const volatile uint32_t *)at == PAINT)
        at += 4;
    return (unsigned long)(stack_begin - at);
}

void fault(void)
{
    /* Semihosting's SYS_EXIT_EXTENDED with an error. */
    static const uint32_t block[2] = {0x20023, 2};
    register uint32_t operation __asm("r0") = 0x20;
    register const uint32_t *argument __asm("r1") = block;
    __asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
    for (;;) {
    }
}
