/* Draws "red apple" and writes it to stdout as a PPM: a program for a PC, and firmware. */
#include <stdint.h>
#include <stdio.h>

#include "mote.h"
#include "model.h" /* what `mote plan --c` wrote */

extern const unsigned char model[]; /* in model.S */
static _Alignas(MOTE_ALIGNMENT) unsigned char memory[MODEL_MEMORY_BYTES];
static struct mote m;
static unsigned char row[3 * MODEL_WIDTH];
_Static_assert(sizeof memory + sizeof m < (128 - 40) * 1024, "the model is too large for this part");

static const uint32_t prompt[] = MODEL_PROMPT;
static const uint32_t negative_prompt[] = MODEL_NEGATIVE_PROMPT;

static int fail(void)
{
    fprintf(stderr, "error: %s\n", mote_error_message(&m));
    return 1;
}

int main(void)
{
    struct mote_request request;
    int status;
    mote_request_init(&request);
    request.prompt = prompt;
    request.negative_prompt = negative_prompt;
    request.prompt_tokens = sizeof prompt / sizeof *prompt;
    request.guidance_scale = 2;
    request.steps = 10;
    request.seed = 4;
    if (mote_init(&m, model, MODEL_BYTES, &request, memory, sizeof memory) != MOTE_OK)
        return fail();
    while ((status = mote_step(&m)) == MOTE_MORE) {
        /* A good place to feed a watchdog. */
    }
    if (status != MOTE_OK)
        return fail();
    printf("P6\n%d %d\n255\n", MODEL_WIDTH, MODEL_HEIGHT);
    while ((status = mote_row(&m, row, sizeof row)) == MOTE_MORE)
        fwrite(row, 1, sizeof row, stdout);
    if (status != MOTE_OK)
        return fail();
    return fflush(stdout) == 0 ? 0 : 1;
}
