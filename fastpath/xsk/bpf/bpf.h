/* What our XDP programs need of BPF, and no more: so that building takes clang and the kernel's headers, not libbpf.
 *
 * A BPF program calls the kernel through numbered helpers: a "function pointer" whose value is the helper's number
 * (linux/bpf.h, ___BPF_FUNC_MAPPER). A map is declared as a variable in section ".maps" whose *type* says everything; the loader reads it
 * from the debug information (BTF): __uint hides a number in an array's length, __type a type in a pointer's target.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) __typeof__(value) *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

static __u64 (*bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

/* Network byte order: of a 16-bit constant, and of values. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) ((__be16)__builtin_bswap16(x))
#define TO_NET16(x) ((__be16)__builtin_bswap16(x))
#define TO_NET32(x) ((__be32)__builtin_bswap32(x))
#define TO_NET64(x) ((__be64)__builtin_bswap64(x))
#else
#define NET16(x) ((__be16)(x))
#define TO_NET16(x) ((__be16)(x))
#define TO_NET32(x) ((__be32)(x))
#define TO_NET64(x) ((__be64)(x))
#endif
