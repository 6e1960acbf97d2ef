/* mote: diffusion models drawn in a fixed block of memory, for C.
 *
 * A model is one file, as `mote convert` writes it, in memory, mapped, or in flash: it is read where
 * it lies and never written. There is no allocation, no operating system, no global state: all that
 * a run knows lies in `struct mote` and in a block of memory whose size is known before it starts.
 *
 *     struct mote m;
 *     struct mote_request request;
 *     struct mote_plan plan;
 *     mote_request_init(&request);
 *     request.class_label = 3;
 *     if (mote_plan(&m, model, model_bytes, &request, memory, sizeof memory, &plan) != MOTE_OK ||
 *         mote_init(&m, model, model_bytes, &request, memory, sizeof memory) != MOTE_OK)
 *         fail(mote_error_message(&m));
 *     do status = mote_step(&m); while (status == MOTE_MORE);
 *     while (mote_row(&m, row, sizeof row) == MOTE_MORE) send(row);
 *
 * One `struct mote` is used by one thread (or interrupt level) at a time; two of them, with memory
 * of their own, do not know of each other. Between two steps nothing happens: a step may be the body
 * of a task, and its time is that of one evaluation of the network.
 *
 * The functions are built with the panic strategy `abort`: a mistake of the caller's (memory that is
 * not aligned is told, but a dangling pointer cannot be) ends in undefined behaviour as ever in C; a
 * mistake of mote's ends in an endless loop on bare metal, and in abort() elsewhere.
 */
#ifndef MOTE_H
#define MOTE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The alignment of memory and of `struct mote`. */
#define MOTE_ALIGNMENT 64

/* Bytes of `struct mote`. */
#define MOTE_STATE_BYTES (sizeof(size_t) == 8 ? 4608 : 3840)

/* Bytes of the block of memory for a model with so many bytes of arena, tensors and rows of the
 * sampler's table, as `mote plan --c` writes them down. */
#define MOTE_MEMORY_BYTES(arena_bytes, tensors, rows)                                              \
    (MOTE_TABLE_BYTES((rows) * MOTE_ROW_BYTES) + MOTE_TABLE_BYTES((tensors) * MOTE_SLOT_BYTES) +   \
     (arena_bytes))
#define MOTE_ROW_BYTES 192
#define MOTE_SLOT_BYTES (sizeof(size_t) == 8 ? 80 : 48)
#define MOTE_TABLE_BYTES(bytes) (((bytes) + MOTE_ALIGNMENT - 1) / MOTE_ALIGNMENT * MOTE_ALIGNMENT)

/* The longest sentence of mote_error_message, with its end. */
#define MOTE_MESSAGE_BYTES 256

/* What a function says. All but MOTE_OK and MOTE_MORE are errors. */
enum mote_status {
    MOTE_OK = 0,          /* done: the picture is there, or all its rows are */
    MOTE_MORE = 1,        /* another step or row follows */
    MOTE_MEMORY = 2,      /* the block of memory is too small: the message says how large it must be */
    MOTE_ARGUMENT = 3,    /* a null pointer, memory that is not aligned, a call out of turn */
    MOTE_FORMAT = 4,      /* the model is no packed file, or damaged: its checksum is wrong */
    MOTE_MODEL = 5,       /* the model's configuration and its weights contradict each other */
    MOTE_REQUEST = 6,     /* the model cannot do what the request asks for */
    MOTE_NOT_FINITE = 7,  /* a network yields what is no number */
    MOTE_FAILED = 8       /* an earlier step failed */
};

/* How to step from noise to a picture. */
enum mote_sampler {
    MOTE_SAMPLER_MODEL = -1, /* as the model's own configuration says */
    MOTE_SAMPLER_DDPM = 0,
    MOTE_SAMPLER_DDIM = 1,
    MOTE_SAMPLER_PNDM = 2,
    MOTE_SAMPLER_EULER = 3,
    MOTE_SAMPLER_EULER_A = 4,
    MOTE_SAMPLER_HEUN = 5,
    MOTE_SAMPLER_DPM2 = 6,
    MOTE_SAMPLER_LMS = 7,
    MOTE_SAMPLER_DPMPP_2M = 8,
    MOTE_SAMPLER_DPMPP_2M_SDE = 9,
    MOTE_SAMPLER_UNIPC = 10,
    MOTE_SAMPLER_LCM = 11,
    MOTE_SAMPLER_DEIS = 12
};

/* The stream of random numbers. */
enum mote_noise {
    MOTE_NOISE_PCG = 0,       /* mote's own */
    MOTE_NOISE_TORCH_CPU = 1, /* PyTorch's on a CPU: diffusers' pictures */
    MOTE_NOISE_TORCH_CUDA = 2 /* PyTorch's on a GPU: the web UIs' pictures */
};

/* What is to be drawn. The prompts must stay where they are until the picture is there. */
struct mote_request {
    uint64_t seed;
    const uint32_t *prompt;          /* token ids with begin, end and padding; NULL: no text */
    const uint32_t *negative_prompt; /* as many; NULL where there is no guidance */
    uint32_t prompt_tokens;
    uint32_t steps;
    int32_t class_label;             /* -1: none */
    int32_t sampler;                 /* enum mote_sampler */
    int32_t noise;                   /* enum mote_noise */
    float guidance_scale;            /* at 1 or less there is no guidance */
    uint32_t width, height;          /* pixels; 0: as the model was trained */
    uint32_t clip_skip;              /* layers of the text encoder that are left out; 0: none */
    uint32_t vae_tile;               /* decode in tiles of so many latents a side; 0: as a whole */
};

/* What a run will need. */
struct mote_plan {
    uint64_t multiply_adds;  /* of the whole picture */
    size_t memory_bytes;     /* the block for mote_init, exactly */
    size_t arena_bytes;      /* the part of it that holds the networks' tensors */
    uint32_t width, height;  /* of the picture */
    uint32_t steps;          /* calls of mote_step */
};

/* A picture on its way. Its bytes are mote's own business. */
struct mote {
#if defined(__cplusplus)
    alignas(MOTE_ALIGNMENT) unsigned char state[MOTE_STATE_BYTES];
#else
    _Alignas(MOTE_ALIGNMENT) unsigned char state[MOTE_STATE_BYTES];
#endif
};

/* Fills in what most requests say: 20 steps of the model's own sampler, mote's noise of seed 0, no
 * class, no text, guidance 7. */
void mote_request_init(struct mote_request *request);

/* Checks the model (its checksum, every weight the networks ask for) and the request, and tells what
 * a run will need. `memory` is only working memory here, for the sampler's table; a block too small
 * even for that is MOTE_MEMORY, and the message says how large it must be: 4 bytes for each training
 * time and some 200 for each step, 8 KiB for 20 steps of most models. Nothing is drawn. */
int mote_plan(struct mote *m, const void *model, size_t model_bytes,
              const struct mote_request *request, void *memory, size_t memory_bytes,
              struct mote_plan *plan);

/* Begins a picture in `memory`, which is aligned to MOTE_ALIGNMENT and at least plan.memory_bytes
 * long, and holds it until the last row was given. Checks all that mote_plan checks. */
int mote_init(struct mote *m, const void *model, size_t model_bytes,
              const struct mote_request *request, void *memory, size_t memory_bytes);

/* Does the next part of the work: MOTE_MORE while more is left, MOTE_OK when the picture is there. */
int mote_step(struct mote *m);

/* Writes the next row of pixels from the top, 3 * width bytes of red, green and blue: MOTE_MORE when
 * it did, MOTE_OK when there is none left. */
int mote_row(struct mote *m, uint8_t *rgb, size_t rgb_bytes);

/* What went wrong in the last call that returned an error, as a sentence; "" where none did. It
 * stays until the next call. */
const char *mote_error_message(const struct mote *m);

#ifdef __cplusplus
}
#endif

#endif
