/*
 * DPDK's rte_acl on the rules and packets that our own tables are measured with: the peer of `scripts/bench policy`.
 *
 *   rte_acl RULES TRACE VERDICTS PASSES CPU BITS
 *
 * RULES, one a line, the first match decides:  allow|deny PROTOCOL SOURCE LENGTH DESTINATION LENGTH SPORT SPORT DPORT DPORT
 * TRACE, one packet a line:                    PROTOCOL SOURCE DESTINATION SPORT DPORT
 * Addresses are decimal numbers. BITS: how wide vectors may be, 256 as DPDK has it by itself, or 512. No match is deny.
 * Writes one byte a packet to VERDICTS ('a' or 'd'), and prints one line of JSON: how long building took, and nanoseconds a
 * packet of every pass over the trace, in bursts of 64: "ns" of the verdict alone; "insert_ns" of the verdict, and of what
 * is allowed remembered in an rte_hash with keys of 16 bytes.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_acl.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>

enum { BURST = 64 };

struct tuple {
  uint8_t protocol;
  uint8_t unused[3];
  uint32_t source;
  uint32_t destination;
  uint16_t source_port;
  uint16_t destination_port;
};

enum { PROTOCOL, SOURCE, DESTINATION, SOURCE_PORT, DESTINATION_PORT, FIELDS };

/* The first field is one byte by itself; the others are read in groups of four bytes (`input_index`). */
static const struct rte_acl_field_def fields[FIELDS] = {
    {RTE_ACL_FIELD_TYPE_BITMASK, sizeof(uint8_t), PROTOCOL, 0, offsetof(struct tuple, protocol)},
    {RTE_ACL_FIELD_TYPE_MASK, sizeof(uint32_t), SOURCE, 1, offsetof(struct tuple, source)},
    {RTE_ACL_FIELD_TYPE_MASK, sizeof(uint32_t), DESTINATION, 2, offsetof(struct tuple, destination)},
    {RTE_ACL_FIELD_TYPE_RANGE, sizeof(uint16_t), SOURCE_PORT, 3, offsetof(struct tuple, source_port)},
    {RTE_ACL_FIELD_TYPE_RANGE, sizeof(uint16_t), DESTINATION_PORT, 3, offsetof(struct tuple, destination_port)},
};

RTE_ACL_RULE_DEF(acl_rule, FIELDS);

static void die(const char *what, const char *about) {
  fprintf(stderr, "rte_acl: %s %s: %s\n", what, about, rte_strerror(rte_errno));
  exit(2);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

/* The verdicts by rule: userdata is the rule's place, counted from 1, and 0 is no match. */
static char *verdicts;

static uint32_t add_rules(struct rte_acl_ctx *context, const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) die("cannot open", path);
  uint32_t count = 0, room = 1024;
  verdicts = malloc(room);
  verdicts[0] = 'd';
  char action[8];
  uint32_t protocol, source, source_length, destination, destination_length, sport[2], dport[2];
  while (fscanf(file, "%7s %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32,
                action, &protocol, &source, &source_length, &destination, &destination_length, &sport[0], &sport[1],
                &dport[0], &dport[1]) == 10) {
    count++;
    if (count >= room) verdicts = realloc(verdicts, room *= 2);
    verdicts[count] = action[0];
    struct acl_rule rule;
    memset(&rule, 0, sizeof rule);
    rule.data.category_mask = 1;
    rule.data.priority = RTE_ACL_MAX_PRIORITY - count;
    rule.data.userdata = count;
    rule.field[PROTOCOL].value.u8 = protocol;
    rule.field[PROTOCOL].mask_range.u8 = 0xff;
    rule.field[SOURCE].value.u32 = source;
    rule.field[SOURCE].mask_range.u32 = source_length;
    rule.field[DESTINATION].value.u32 = destination;
    rule.field[DESTINATION].mask_range.u32 = destination_length;
    rule.field[SOURCE_PORT].value.u16 = sport[0];
    rule.field[SOURCE_PORT].mask_range.u16 = sport[1];
    rule.field[DESTINATION_PORT].value.u16 = dport[0];
    rule.field[DESTINATION_PORT].mask_range.u16 = dport[1];
    if (rte_acl_add_rules(context, (struct rte_acl_rule *)&rule, 1)) die("cannot add a rule of", path);
  }
  fclose(file);
  return count;
}

static struct tuple *read_trace(const char *path, uint32_t *count) {
  FILE *file = fopen(path, "r");
  if (!file) die("cannot open", path);
  uint32_t room = 1024, protocol, source, destination, sport, dport;
  struct tuple *trace = malloc(room * sizeof *trace);
  *count = 0;
  while (fscanf(file, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &protocol, &source, &destination, &sport, &dport) == 5) {
    if (*count == room) trace = realloc(trace, (room *= 2) * sizeof *trace);
    trace[(*count)++] = (struct tuple){protocol, {0}, htonl(source), htonl(destination), htons(sport), htons(dport)};
  }
  fclose(file);
  return trace;
}

int main(int argc, char **argv) {
  if (argc != 7) {
    fprintf(stderr, "usage: rte_acl RULES TRACE VERDICTS PASSES CPU BITS\n");
    return 2;
  }
  char bits[64];
  snprintf(bits, sizeof bits, "--force-max-simd-bitwidth=%s", argv[6]);
  char *eal[] = {argv[0], "--no-shconf", "--no-pci", "--no-telemetry", "--no-huge", "-m", "2048", "--log-level=3", bits, "-l", argv[5], NULL};
  if (rte_eal_init(11, eal) < 0) die("cannot start", "EAL");

  char name[] = "rules";
  struct rte_acl_param parameters = {name, SOCKET_ID_ANY, RTE_ACL_RULE_SZ(FIELDS), 1 << 20};
  struct rte_acl_ctx *context = rte_acl_create(&parameters);
  if (!context) die("cannot make", "a context");
  double start = seconds();
  uint32_t rules = add_rules(context, argv[1]);
  struct rte_acl_config config = {.num_categories = 1, .num_fields = FIELDS};
  memcpy(config.defs, fields, sizeof fields);
  if (rte_acl_build(context, &config)) die("cannot build", argv[1]);
  double built = seconds() - start;
  /* As fast as this CPU and the bits let it: AVX-512, else AVX2, else SSE. */
  const char *algorithm = "default";
  if (rte_acl_set_ctx_classify(context, RTE_ACL_CLASSIFY_AVX512X32) == 0) algorithm = "avx512x32";
  else if (rte_acl_set_ctx_classify(context, RTE_ACL_CLASSIFY_AVX2) == 0) algorithm = "avx2";
  else if (rte_acl_set_ctx_classify(context, RTE_ACL_CLASSIFY_SSE) == 0) algorithm = "sse";

  uint32_t packets;
  struct tuple *trace = read_trace(argv[2], &packets);
  uint32_t *results = malloc(packets * sizeof *results);
  int passes = atoi(argv[4]);
  printf("{\"algorithm\":\"%s\",\"rules\":%" PRIu32 ",\"packets\":%" PRIu32 ",\"build_s\":%.4f,\"ns\":[", algorithm, rules, packets, built);
  for (int pass = 0; pass < passes; pass++) {
    start = seconds();
    for (uint32_t first = 0; first < packets; first += BURST) {
      const uint8_t *burst[BURST];
      uint32_t count = packets - first < BURST ? packets - first : BURST;
      for (uint32_t i = 0; i < count; i++) burst[i] = (const uint8_t *)&trace[first + i];
      rte_acl_classify(context, burst, results + first, count, 1);
    }
    printf("%s%.2f", pass ? "," : "", (seconds() - start) * 1e9 / packets);
  }
  printf("],\"insert_ns\":[");
  struct rte_hash_parameters flows = {.name = "flows", .entries = 1 << 18, .key_len = sizeof(struct tuple), .hash_func = rte_hash_crc, .socket_id = SOCKET_ID_ANY};
  struct rte_hash *hash = rte_hash_create(&flows);
  if (!hash) die("cannot make", "a hash");
  for (int pass = 0; pass < passes; pass++) {
    rte_hash_reset(hash);
    start = seconds();
    for (uint32_t first = 0; first < packets; first += BURST) {
      const uint8_t *burst[BURST];
      uint32_t count = packets - first < BURST ? packets - first : BURST;
      for (uint32_t i = 0; i < count; i++) burst[i] = (const uint8_t *)&trace[first + i];
      rte_acl_classify(context, burst, results + first, count, 1);
      for (uint32_t i = 0; i < count; i++) {
        if (verdicts[results[first + i]] == 'a' && rte_hash_add_key(hash, &trace[first + i]) < 0) die("cannot add", "a flow");
      }
    }
    printf("%s%.2f", pass ? "," : "", (seconds() - start) * 1e9 / packets);
  }
  printf("]}\n");
  rte_hash_free(hash);

  FILE *file = fopen(argv[3], "w");
  if (!file) die("cannot write", argv[3]);
  for (uint32_t i = 0; i < packets; i++) fputc(verdicts[results[i]], file);
  fclose(file);
  rte_acl_free(context);
  return 0;
}
