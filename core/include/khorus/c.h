/* Khorus in C, for programs and languages that do not speak C++: the default engine of khorus.h.
 *
 *   khorus_init();
 *   khorus_tensor x = {data, KHORUS_FLOAT32, 1, shape};
 *   khorus_work* work;
 *   if (khorus_allreduce(&work, "x", &x, &x, KHORUS_AVERAGE, 1, 1, KHORUS_GLOBAL) != KHORUS_OK ||
 *       khorus_wait(work) != KHORUS_OK) puts(khorus_error_message());
 *   khorus_work_free(work);
 *   khorus_shutdown();
 *
 * What the operations mean is said in engine.h; the words are the same. Every function that returns
 * int32_t returns a khorus_status: KHORUS_OK, or what went wrong, with the whole sentence in
 * khorus_error_message() of the same thread.
 *
 * Ownership: the caller's tensors stay valid until the work is over; a work until
 * khorus_work_free(). Thread rule: any thread, except that khorus_init() and khorus_shutdown() must
 * not run at the same time; a work may be waited for by several threads, and is freed by one.
 */
#ifndef KHORUS_C_H_
#define KHORUS_C_H_

#include <stddef.h>
#include <stdint.h>

#define KHORUS_C_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum khorus_status {
  KHORUS_OK = 0,
  KHORUS_INVALID_ARGUMENT = 1,
  KHORUS_MISMATCH = 2,
  KHORUS_DUPLICATE_NAME = 3,
  KHORUS_PEER_LOST = 4,
  KHORUS_ABORTED = 5,
  KHORUS_SHUTDOWN = 6,
  KHORUS_UNAVAILABLE = 7,
  KHORUS_TIMEOUT = 8,
  KHORUS_PERMISSION_DENIED = 9,
  KHORUS_INTERNAL = 10
} khorus_status;

typedef enum khorus_dtype {
  KHORUS_UINT8 = 0,
  KHORUS_INT8 = 1,
  KHORUS_INT16 = 2,
  KHORUS_INT32 = 3,
  KHORUS_INT64 = 4,
  KHORUS_FLOAT16 = 5,
  KHORUS_BFLOAT16 = 6,
  KHORUS_FLOAT32 = 7,
  KHORUS_FLOAT64 = 8,
  KHORUS_BOOL = 9
} khorus_dtype;

typedef enum khorus_reduction {
  KHORUS_SUM = 0,
  KHORUS_AVERAGE = 1,
  KHORUS_MIN = 2,
  KHORUS_MAX = 3,
  KHORUS_PRODUCT = 4,
  KHORUS_ADASUM = 5
} khorus_reduction;

/* The process set of all ranks. */
#define KHORUS_GLOBAL 0

/* Contiguous, row-major memory of the CPU. */
typedef struct khorus_tensor {
  void* data;
  int32_t dtype; /* khorus_dtype */
  int32_t dimensions;
  const int64_t* shape; /* `dimensions` extents, outermost first */
} khorus_tensor;

typedef struct khorus_work khorus_work;

/* ---- life and place ---- */

KHORUS_C_API int32_t khorus_init(void);
KHORUS_C_API int32_t khorus_shutdown(void);
KHORUS_C_API int32_t khorus_is_initialized(void); /* 1 or 0 */

/* -1 before khorus_init(). */
KHORUS_C_API int32_t khorus_rank(void);
KHORUS_C_API int32_t khorus_size(void);
KHORUS_C_API int32_t khorus_local_rank(void);
KHORUS_C_API int32_t khorus_local_size(void);
KHORUS_C_API int32_t khorus_cross_rank(void);
KHORUS_C_API int32_t khorus_cross_size(void);

/* Of the last call of this thread that did not return KHORUS_OK; valid until the next such call. */
KHORUS_C_API const char* khorus_error_message(void);
/* The rank that the last KHORUS_PEER_LOST of this thread was about, or -1. */
KHORUS_C_API int32_t khorus_lost_rank(void);

/* ---- operations ----
 *
 * Each starts one and gives its work. Wrong arguments too are told by khorus_wait(); an error of
 * the call itself (KHORUS_UNAVAILABLE before khorus_init()) leaves *work NULL. */

KHORUS_C_API int32_t khorus_allreduce(khorus_work** work, const char* name,
                                      const khorus_tensor* input, const khorus_tensor* output,
                                      int32_t reduction, double prescale, double postscale,
                                      int32_t process_set);
KHORUS_C_API int32_t khorus_allgather(khorus_work** work, const char* name,
                                      const khorus_tensor* input, int32_t process_set);
KHORUS_C_API int32_t khorus_broadcast(khorus_work** work, const char* name,
                                      const khorus_tensor* input, const khorus_tensor* output,
                                      int32_t root_rank, int32_t process_set);
/* `splits`: one number per rank of the set, or NULL for equal parts. */
KHORUS_C_API int32_t khorus_alltoall(khorus_work** work, const char* name,
                                     const khorus_tensor* input, const int64_t* splits,
                                     size_t split_count, int32_t process_set);
KHORUS_C_API int32_t khorus_reducescatter(khorus_work** work, const char* name,
                                          const khorus_tensor* input, int32_t reduction,
                                          double prescale, double postscale, int32_t process_set);
KHORUS_C_API int32_t khorus_send(khorus_work** work, const khorus_tensor* input, int32_t peer,
                                 int32_t tag, int32_t process_set);
KHORUS_C_API int32_t khorus_recv(khorus_work** work, const khorus_tensor* output, int32_t peer,
                                 int32_t tag, int32_t process_set);
KHORUS_C_API int32_t khorus_join(khorus_work** work);
KHORUS_C_API int32_t khorus_barrier(int32_t process_set); /* blocks */

/* ---- works ---- */

KHORUS_C_API int32_t khorus_poll(const khorus_work* work); /* 1: over, 0: not yet */
/* Blocks until the operation is over; how it ended. */
KHORUS_C_API int32_t khorus_wait(khorus_work* work);
/* The result of a work that is over and ok; see Work::result(). `data` and `shape` live as long as
 * the work. */
KHORUS_C_API int32_t khorus_result(khorus_work* work, khorus_tensor* result);
/* Of an allgather or alltoall: rows by rank of the set, as many as fit. Returns how many there are.
 */
KHORUS_C_API size_t khorus_first_extents(khorus_work* work, int64_t* extents, size_t capacity);
/* Of a join that is over and ok: the last rank; else -1. */
KHORUS_C_API int32_t khorus_last_joined(khorus_work* work);
/* The operation goes on if it is not over: its tensors must stay. NULL is allowed. */
KHORUS_C_API void khorus_work_free(khorus_work* work);

/* ---- process sets: collective over all ranks, block ---- */

KHORUS_C_API int32_t khorus_add_process_set(const int32_t* ranks, size_t count, int32_t* id);
KHORUS_C_API int32_t khorus_remove_process_set(int32_t id);

#ifdef __cplusplus
}
#endif

#endif /* KHORUS_C_H_ */
