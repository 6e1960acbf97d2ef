/* Draws one picture with a packed model that is part of the program, and writes it as PPM:
 *
 *     picture OUT.ppm
 *
 * The same source is an ordinary program and firmware without operating system. MODEL_H, STEPS,
 * SEED, SAMPLER and GUIDANCE come from the compiler's command line; PROMPT and NEGATIVE, where the
 * model takes a text, are lists of token ids. All memory is static, of the size that `mote plan --c`
 * wrote into MODEL_H, to the byte. */
#include <stdio.h>
#include <string.h>

#include "mote.h"
#include MODEL_H

/* The packed model, in model.S. */
extern const unsigned char model[];
extern const unsigned char model_end[];

static _Alignas(MOTE_ALIGNMENT) unsigned char memory[MODEL_MEMORY_BYTES];
static struct mote m;
static unsigned char row[3 * MODEL_WIDTH];

#ifdef PROMPT
static const uint32_t prompt[] = {PROMPT};
static const uint32_t negative_prompt[] = {NEGATIVE};
#endif

/* Where the stack was painted: how much of it was used. */
extern unsigned long stack_bytes(void) __attribute__((weak));

static int fail(const char *where)
{
    fprintf(stderr, "error: %s: %s\n", where, mote_error_message(&m));
    return 1;
}

static int fill_in(struct mote_request *request)
{
    mote_request_init(request);
    request->steps = STEPS;
    request->seed = SEED;
    request->sampler = SAMPLER;
#ifdef PROMPT
    request->prompt = prompt;
    request->negative_prompt = negative_prompt;
    request->prompt_tokens = sizeof prompt / sizeof *prompt;
    request->guidance_scale = GUIDANCE;
#endif
    return 0;
}

/* Everything that must be refused, is, with a sentence. */
static int check_errors(const struct mote_request *request, size_t model_bytes)
{
    static struct mote other;
    struct mote_plan plan;
    struct mote_request wrong = *request;
    if (mote_init(&other, model, model_bytes, request, memory, sizeof memory - 1) != MOTE_MEMORY ||
        strstr(mote_error_message(&other), "needs") == NULL)
        return 1;
    if (mote_init(&other, model, model_bytes, request, memory + 1, 4096) != MOTE_ARGUMENT ||
        mote_init(&other, NULL, model_bytes, request, memory, sizeof memory) != MOTE_ARGUMENT ||
        mote_step(&other) != MOTE_ARGUMENT || mote_row(&other, row, sizeof row) != MOTE_ARGUMENT)
        return 2;
    if (mote_plan(&other, model, model_bytes - 1, request, memory, sizeof memory, &plan) !=
        MOTE_FORMAT)
        return 3;
    wrong.sampler = 99;
    if (mote_plan(&other, model, model_bytes, &wrong, memory, sizeof memory, &plan) !=
            MOTE_REQUEST || mote_error_message(&other)[0] == '\0')
        return 4;
    wrong = *request;
    wrong.steps = 0;
    if (mote_plan(&other, model, model_bytes, &wrong, memory, sizeof memory, &plan) != MOTE_REQUEST)
        return 5;
    return 0;
}

int main(int argc, char **argv)
{
    struct mote_request request;
    struct mote_plan plan;
    size_t model_bytes = (size_t)(model_end - model);
    FILE *out;
    int status, steps = 0, wrong;

    if (argc != 2) {
        fprintf(stderr, "usage: picture OUT.ppm\n");
        return 1;
    }
    if (model_bytes != MODEL_BYTES) {
        fprintf(stderr, "error: the model is not that of its plan\n");
        return 1;
    }
    fill_in(&request);
    wrong = check_errors(&request, model_bytes);
    if (wrong != 0) {
        fprintf(stderr, "error: mistake %d was not told\n", wrong);
        return 1;
    }
    if (mote_plan(&m, model, model_bytes, &request, memory, sizeof memory, &plan) != MOTE_OK)
        return fail("plan");
    if (plan.memory_bytes != sizeof memory || plan.arena_bytes != MODEL_ARENA_BYTES) {
        fprintf(stderr, "error: %lu bytes of memory, not the %lu of the constant\n",
                (unsigned long)plan.memory_bytes, (unsigned long)sizeof memory);
        return 1;
    }
    if (mote_init(&m, model, model_bytes, &request, memory, sizeof memory) != MOTE_OK)
        return fail("init");
    do {
        status = mote_step(&m);
        steps++;
    } while (status == MOTE_MORE);
    if (status != MOTE_OK || steps != (int)plan.steps)
        return fail("step");
    out = fopen(argv[1], "wb");
    if (out == NULL) {
        fprintf(stderr, "error: %s cannot be written\n", argv[1]);
        return 1;
    }
    fprintf(out, "P6\n%d %d\n255\n", (int)plan.width, (int)plan.height);
    while ((status = mote_row(&m, row, sizeof row)) == MOTE_MORE)
        fwrite(row, 1, sizeof row, out);
    if (status != MOTE_OK || fclose(out) != 0)
        return fail("row");
    printf("memory %lu, stack %lu\n", (unsigned long)(sizeof memory + sizeof m),
           stack_bytes != NULL ? stack_bytes() : 0ul);
    return 0;
}
