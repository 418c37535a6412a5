/*
 * DPDK's rte_hash on the flows that our own table is measured with.
 *
 *   rte_hash DIRECTORY ANSWERS huge|small CPU
 *
 * DIRECTORY/flows, one a line: ENDPOINT PROTOCOL LOCAL PORT REMOTE PORT, of which the first half is in the table, and
 * DIRECTORY/hits and DIRECTORY/misses: one number of a flow a line. Decimal numbers. See peer.h.
 *
 * Twice: with keys of 40 bytes, which hold what ours hold (also addresses of IPv6), and with keys of 16 bytes, as l3fwd has
 * them, for IPv4 only. Hashed with CRC32, as rte_hash does by itself: it has no secret.
 */
#include "peer.h"

#include <rte_hash.h>
#include <rte_hash_crc.h>

struct key40 {
  uint64_t local[2], remote[2];
  uint32_t ports, endpoint_and_protocol;
};

struct key16 {
  uint32_t local, remote, ports, endpoint_and_protocol;
};

static struct key40 *keys40, *hits40, *misses40;
static struct key16 *keys16, *hits16, *misses16;
static struct rte_hash *hash40, *hash16;
static uint32_t packets;
static volatile uint64_t sink;

static void lookup_bulk(struct rte_hash *hash, const void *trace, size_t size) {
  uint64_t sum = 0;
  for (uint32_t first = 0; first + BURST <= packets; first += BURST) {
    const void *burst[BURST];
    void *found[BURST];
    uint64_t mask = 0;
    for (int i = 0; i < BURST; i++) burst[i] = (const uint8_t *)trace + size * (first + i);
    rte_hash_lookup_bulk_data(hash, burst, BURST, &mask, found);
    sum += mask;
  }
  sink = sum;
}

static void lookup(struct rte_hash *hash, const void *trace, size_t size) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < packets; i++) {
    void *found = NULL;
    sum += rte_hash_lookup_data(hash, (const uint8_t *)trace + size * i, &found);
  }
  sink = sum;
}

static void round_of_all(void) {
  MEASURE("hit: rte_hash, batches of 64", packets, lookup_bulk(hash40, hits40, sizeof *hits40));
  MEASURE("miss: rte_hash, batches of 64", packets, lookup_bulk(hash40, misses40, sizeof *misses40));
  MEASURE("hit: rte_hash, one by one", packets, lookup(hash40, hits40, sizeof *hits40));
  MEASURE("miss: rte_hash, one by one", packets, lookup(hash40, misses40, sizeof *misses40));
  MEASURE("hit: rte_hash with keys of 16 bytes, batches of 64", packets, lookup_bulk(hash16, hits16, sizeof *hits16));
  MEASURE("miss: rte_hash with keys of 16 bytes, batches of 64", packets, lookup_bulk(hash16, misses16, sizeof *misses16));
}

static struct rte_hash *make(const char *name, uint32_t entries, uint32_t key_size) {
  struct rte_hash_parameters parameters = {
      .name = name, .entries = entries, .key_len = key_size, .hash_func = rte_hash_crc, .hash_func_init_val = 0, .socket_id = SOCKET_ID_ANY};
  struct rte_hash *hash = rte_hash_create(&parameters);
  if (!hash) die("cannot make", name);
  return hash;
}

static uint32_t *numbers(const char *directory, const char *name, uint32_t *count) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = open_file(path, "r");
  uint32_t room = 1024, number, *list = malloc(room * sizeof *list);
  *count = 0;
  while (fscanf(file, "%" SCNu32, &number) == 1) {
    if (*count == room) list = realloc(list, (room *= 2) * sizeof *list);
    list[(*count)++] = number;
  }
  fclose(file);
  return list;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: rte_hash DIRECTORY ANSWERS huge|small CPU\n");
    return 2;
  }
  start("rte_hash", argv[3], argv[4]);
  char path[4096];
  snprintf(path, sizeof path, "%s/flows", argv[1]);
  FILE *file = open_file(path, "r");
  uint32_t room = 1024, flows = 0, endpoint, protocol, local, local_port, remote, remote_port;
  keys40 = malloc(room * sizeof *keys40);
  keys16 = malloc(room * sizeof *keys16);
  while (fscanf(file, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &endpoint, &protocol, &local, &local_port,
                &remote, &remote_port) == 6) {
    if (flows == room) {
      room *= 2;
      keys40 = realloc(keys40, room * sizeof *keys40);
      keys16 = realloc(keys16, room * sizeof *keys16);
    }
    uint32_t ports = local_port << 16 | remote_port, tail = endpoint << 8 | protocol;
    uint64_t mapped = 0xffffull << 32;
    keys40[flows] = (struct key40){{0, mapped | local}, {0, mapped | remote}, ports, tail};
    keys16[flows++] = (struct key16){local, remote, ports, tail};
  }
  fclose(file);
  uint32_t other;
  uint32_t *hits = numbers(argv[1], "hits", &packets), *misses = numbers(argv[1], "misses", &other);
  if (other != packets) die("not as many misses as hits in", argv[1]);
  /* One beside the other: a packet's key is at hand. */
  hits40 = malloc(packets * sizeof *hits40);
  misses40 = malloc(packets * sizeof *misses40);
  hits16 = malloc(packets * sizeof *hits16);
  misses16 = malloc(packets * sizeof *misses16);
  for (uint32_t i = 0; i < packets; i++) {
    hits40[i] = keys40[hits[i]];
    misses40[i] = keys40[misses[i]];
    hits16[i] = keys16[hits[i]];
    misses16[i] = keys16[misses[i]];
  }

  uint64_t before = heap_bytes();
  hash40 = make("hash40", flows / 2, sizeof *keys40);
  double from = seconds();
  for (uint32_t i = 0; i < flows / 2; i++) {
    if (rte_hash_add_key_data(hash40, &keys40[i], (void *)(uintptr_t)i)) die("cannot add a flow of", path);
  }
  double build_s = seconds() - from;
  uint64_t bytes = heap_bytes() - before;
  hash16 = make("hash16", flows / 2, sizeof *keys16);
  for (uint32_t i = 0; i < flows / 2; i++) {
    if (rte_hash_add_key_data(hash16, &keys16[i], (void *)(uintptr_t)i)) die("cannot add a flow of", path);
  }
  uint32_t *answers = malloc(2 * packets * sizeof *answers);
  for (uint32_t i = 0; i < 2 * packets; i++) {
    uint32_t flow = i < packets ? hits[i] : misses[i - packets];
    void *found;
    answers[i] = rte_hash_lookup_data(hash40, &keys40[flow], &found) < 0 ? NOTHING : (uint32_t)(uintptr_t)found;
  }
  write_answers(argv[2], answers, 2 * packets);
  rounds(build_s, bytes, round_of_all);
  return 0;
}
