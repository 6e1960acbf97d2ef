/* From reset to newlib's start, on a Cortex-M with or without a floating-point unit: the vector
 * table, and what must be done before C may begin. */
#include <stdint.h>

extern uint32_t stack_top[], data_start[], data_end[];
extern const uint32_t data_in_flash[];
extern void _start(void);

void reset(void);
void fault(void);

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_top, (uintptr_t)reset, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,      (uintptr_t)fault, (uintptr_t)fault,
};

void reset(void)
{
    const uint32_t *from = data_in_flash;
    uint32_t *to;
#if defined(__ARM_FP)
    /* CPACR: full access to coprocessors 10 and 11. */
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
    __asm volatile("dsb\nisb");
#endif
    for (to = data_start; to < data_end; to++)
        *to = *from++;
    _start();
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
