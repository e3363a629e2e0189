/* Every function of khorus/c.h from plain C; run on 3 ranks. Exit code 0 if all was right. */
#include <khorus/c.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;

static void expect(int good, const char* what, int line) {
  if (good) return;
  ++failures;
  fprintf(stderr, "line %d: %s (%s)\n", line, what, khorus_error_message());
}
#define EXPECT(condition) expect(condition, #condition, __LINE__)

/* Waits and frees. */
static int32_t finish(khorus_work* work) {
  const int32_t status = work == NULL ? KHORUS_INTERNAL : khorus_wait(work);
  khorus_work_free(work);
  return status;
}

static void reductions(void) {
  const int32_t rank = khorus_rank();
  float values[6];
  const int64_t shape[2] = {3, 2};
  const khorus_tensor x = {values, KHORUS_FLOAT32, 2, shape};
  khorus_work* work = NULL;
  for (int i = 0; i < 6; ++i) values[i] = (float)(rank + i);
  EXPECT(khorus_allreduce(&work, "sum", &x, &x, KHORUS_SUM, 1, 1, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(finish(work) == KHORUS_OK);
  EXPECT(values[0] == 3 && values[5] == 18);

  EXPECT(khorus_reducescatter(&work, "rows", &x, KHORUS_AVERAGE, 1, 1, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(khorus_wait(work) == KHORUS_OK);
  khorus_tensor part;
  EXPECT(khorus_result(work, &part) == KHORUS_OK);
  EXPECT(part.dimensions == 2 && part.shape[0] == 1 && part.shape[1] == 2);
  EXPECT(((const float*)part.data)[1] == values[2 * rank + 1]);
  khorus_work_free(work);

  const khorus_tensor root = {values, KHORUS_FLOAT32, 2, shape};
  if (rank == 1) values[3] = 42;
  EXPECT(khorus_broadcast(&work, "root", &root, &root, 1, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(finish(work) == KHORUS_OK);
  EXPECT(values[3] == 42);
}

static void rows(void) {
  const int32_t rank = khorus_rank();
  int64_t mine[3] = {rank, rank, rank};
  int64_t count = rank;
  const khorus_tensor ragged = {mine, KHORUS_INT64, 1, &count};
  khorus_work* work = NULL;
  int64_t extents[3] = {-1, -1, -1};
  khorus_tensor result;
  EXPECT(khorus_allgather(&work, NULL, &ragged, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(khorus_wait(work) == KHORUS_OK && khorus_poll(work) == 1);
  EXPECT(khorus_result(work, &result) == KHORUS_OK && result.shape[0] == 3);
  EXPECT(khorus_first_extents(work, extents, 3) == 3 && extents[2] == 2);
  khorus_work_free(work);

  count = 3;
  const int64_t splits[3] = {0, 1, 2};
  const khorus_tensor all = {mine, KHORUS_INT64, 1, &count};
  EXPECT(khorus_alltoall(&work, "split", &all, splits, 3, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(khorus_wait(work) == KHORUS_OK);
  EXPECT(khorus_result(work, &result) == KHORUS_OK && result.shape[0] == 3 * rank);
  khorus_work_free(work);
}

static void some_of_the_ranks(void) {
  const int32_t rank = khorus_rank();
  const int32_t pair[2] = {0, 2};
  int32_t set = -1;
  EXPECT(khorus_add_process_set(pair, 2, &set) == KHORUS_OK && set == 1);
  int64_t count = 1;
  double value = rank;
  const khorus_tensor x = {&value, KHORUS_FLOAT64, 1, &count};
  khorus_work* work = NULL;
  if (rank != 1) {
    EXPECT(khorus_allreduce(&work, "pair", &x, &x, KHORUS_MAX, 1, 1, set) == KHORUS_OK);
    EXPECT(finish(work) == KHORUS_OK && value == 2);
    EXPECT(khorus_barrier(set) == KHORUS_OK);
  }
  EXPECT(khorus_remove_process_set(set) == KHORUS_OK);
  if (rank == 0) {
    EXPECT(khorus_send(&work, &x, 1, 7, KHORUS_GLOBAL) == KHORUS_OK);
    EXPECT(finish(work) == KHORUS_OK);
  } else if (rank == 1) {
    EXPECT(khorus_recv(&work, &x, 0, 7, KHORUS_GLOBAL) == KHORUS_OK);
    EXPECT(finish(work) == KHORUS_OK && value == 2);
  }
  EXPECT(khorus_join(&work) == KHORUS_OK);
  const int32_t last = khorus_last_joined(work);
  EXPECT(last >= 0 && last < 3);
  khorus_work_free(work);
}

static void errors(void) {
  int64_t count = 2;
  float values[2] = {0, 0};
  const khorus_tensor x = {values, KHORUS_FLOAT32, 1, &count};
  khorus_work* work = NULL;
  EXPECT(khorus_send(&work, &x, 99, 0, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(finish(work) == KHORUS_INVALID_ARGUMENT);
  EXPECT(strstr(khorus_error_message(), "99") != NULL);
  const khorus_tensor wrong = {values, 77, 1, &count};
  EXPECT(khorus_allgather(&work, "w", &wrong, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(finish(work) == KHORUS_INVALID_ARGUMENT);
  EXPECT(khorus_allgather(&work, "none", NULL, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(finish(work) == KHORUS_INVALID_ARGUMENT);
  EXPECT(khorus_lost_rank() == -1);
  count = khorus_rank() == 0 ? 1 : 2;
  EXPECT(khorus_allreduce(&work, "differs", &x, &x, KHORUS_SUM, 1, 1, KHORUS_GLOBAL) == KHORUS_OK);
  EXPECT(finish(work) == KHORUS_MISMATCH);
  EXPECT(strstr(khorus_error_message(), "rank 0") != NULL);
}

int main(void) {
  EXPECT(khorus_rank() == -1 && khorus_is_initialized() == 0);
  EXPECT(khorus_barrier(KHORUS_GLOBAL) == KHORUS_UNAVAILABLE);
  khorus_work* none;
  EXPECT(khorus_join(&none) == KHORUS_UNAVAILABLE && none == NULL);
  if (khorus_init() != KHORUS_OK) {
    fprintf(stderr, "%s\n", khorus_error_message());
    return 1;
  }
  EXPECT(khorus_is_initialized() == 1 && khorus_size() == 3);
  EXPECT(khorus_local_size() == 3 && khorus_cross_size() == 1 && khorus_cross_rank() == 0);
  EXPECT(khorus_local_rank() == khorus_rank());
  reductions();
  rows();
  some_of_the_ranks();
  errors();
  EXPECT(khorus_shutdown() == KHORUS_OK);
  return failures == 0 ? 0 : 1;
}
