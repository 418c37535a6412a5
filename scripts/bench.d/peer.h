/*
 * What the peers of `scripts/bench tables` share. Each is started once, builds its table from files that our own program
 * has written, writes what it finds for every key of the trace (for comparison with ours), says that it is ready, and
 * then measures one round for every line on its standard input: so theirs and ours take turns on one core.
 *
 * Prints JSON, an object a line: first {"build_s":…, "bytes":…}, then {"calibration":…, NAME:…} in nanoseconds.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>

enum { BURST = 64 };

/* What is found where nothing is. */
#define NOTHING UINT32_MAX

static const char *program = "peer";

static inline void die(const char *what, const char *about) {
  fprintf(stderr, "%s: %s %s: %s\n", program, what, about, rte_strerror(rte_errno));
  exit(2);
}

static inline double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static inline FILE *open_file(const char *path, const char *mode) {
  FILE *file = fopen(path, mode);
  if (!file) {
    rte_errno = errno;
    die("cannot open", path);
  }
  return file;
}

/* PAGES: "huge" for huge pages, which must be free; "small" for pages of 4 KiB. EAL pins itself to CPU. */
static inline void start(const char *name, const char *pages, const char *cpu) {
  program = name;
  char *small[] = {(char *)name, "--no-huge", "-m", "3072", "--no-shconf", "--no-pci", "--no-telemetry", "--log-level=3", "--force-max-simd-bitwidth=512", "-l", (char *)cpu, NULL};
  char *huge[] = {(char *)name, "--in-memory", "--no-pci", "--no-telemetry", "--log-level=3", "--force-max-simd-bitwidth=512", "-l", (char *)cpu, NULL};
  int is_huge = strcmp(pages, "huge") == 0;
  /* EAL allows 256 bits by itself; with 512 there are vector forms to ask for: where one is used, its name says so. */
  if (rte_eal_init(is_huge ? 8 : 11, is_huge ? huge : small) < 0) die("cannot start EAL with pages", pages);
}

/* What DPDK's heaps have given out. */
static inline uint64_t heap_bytes(void) {
  uint64_t bytes = 0;
  for (int socket = 0; socket < 8; socket++) {
    struct rte_malloc_socket_stats stats;
    if (rte_malloc_get_socket_stats(socket, &stats) == 0) bytes += stats.heap_allocsz_bytes;
  }
  return bytes;
}

/* The same steps in every program, each waiting for the one before: how fast this core is just now. */
static inline double calibration(void) {
  uint64_t x = 1;
  double from = seconds();
  for (int i = 0; i < 1000000; i++) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    __asm__ volatile("" : "+r"(x));
  }
  return (seconds() - from) * 1e9 / 1000000;
}

/* Measures whenever a line comes. ROUND prints `,"NAME":NS` for each way of looking up. */
static inline void rounds(double build_s, uint64_t bytes, void (*round)(void)) {
  printf("{\"build_s\":%.4f,\"bytes\":%" PRIu64 "}\n", build_s, bytes);
  fflush(stdout);
  char line[16];
  while (fgets(line, sizeof line, stdin)) {
    printf("{\"calibration\":%.4f", calibration());
    round();
    printf("}\n");
    fflush(stdout);
  }
}

/* One pass to warm up, and the best of five: a pass is short, and what interrupts it is not the table's. */
#define MEASURE(name, count, pass)                                     \
  do {                                                                 \
    double best = 1e300;                                               \
    for (int measured = 0; measured < 6; measured++) {                 \
      double from = seconds();                                         \
      pass;                                                            \
      double ns = (seconds() - from) * 1e9 / (count);                  \
      if (measured && ns < best) best = ns;                            \
    }                                                                  \
    printf(",\"%s\":%.3f", name, best);                                \
  } while (0)

static inline void write_answers(const char *path, const uint32_t *answers, uint32_t count) {
  FILE *file = open_file(path, "wb");
  if (fwrite(answers, sizeof *answers, count, file) != count || fclose(file)) die("cannot write", path);
}
