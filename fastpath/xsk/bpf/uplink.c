/* The program on the uplink: takes what is the fastpath's, and leaves the host its network.
 *
 *   frame ── IPv4 or IPv6? ──no──────────────────────────────────────────► pass
 *              │ destination in a captured prefix? (fragments too) ──yes──► socket of this queue
 *              │ whole, UDP to a captured (address, port)?        ──yes──► socket of this queue
 *              │ whole, IP-in-IP to a captured address?           ──yes──► socket of this queue
 *              └──────────────────────────────────────────────────────────► pass
 *
 * The program knows nothing by itself: what is captured is in maps that user space fills. Everything that is not
 * recognised (ARP, VLAN tags, extension headers, truncated headers) passes, as does everything while a queue has no socket. User
 * space holds the program's only link and does not pin it: when the process ends, however it ends, the program is gone.
 *
 * A fragment of a tunnel's outer packet passes too: only the first one says which port it is for, and taking some fragments of a
 * datagram and leaving others would break both readers.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "bpf.h"

#define IP_MORE_FRAGMENTS_OR_OFFSET NET16(0x3fff)

/* Socket by receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Where tunnels end: a local address (IPv4 as ::ffff:a.b.c.d), a protocol, and for UDP a port. */
struct tunnel {
	__u8 address[16];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct tunnel);
	__type(value, __u32);
} tunnels SEC(".maps");

/* Prefixes whose traffic is ours by its destination. The value of the longest match decides: 1 ours, 0 the host's after all. */
struct prefix4 {
	__u32 length;
	__u8 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u32);
} prefixes4 SEC(".maps");

struct prefix6 {
	__u32 length;
	__u8 address[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u32);
} prefixes6 SEC(".maps");

/* What became of frames. The order is user space's too (xdp/uplink.rs). */
enum outcome {
	PASSED,
	CAPTURED_PREFIX,
	CAPTURED_VXLAN,
	CAPTURED_IPIP,
	NO_SOCKET, /* ours, but nobody reads this queue: passed */
	OUTCOMES,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 outcome)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &outcome);
	if (counter)
		*counter += 1; /* per CPU, so nobody else writes it */
}

static __always_inline enum outcome tunnel_outcome(struct tunnel *key, void *l4, void *end)
{
	if (key->protocol == IPPROTO_UDP) {
		struct udphdr *udp = l4;
		if ((void *)(udp + 1) > end)
			return PASSED;
		key->port = udp->dest;
	} else if (key->protocol != IPPROTO_IPIP) {
		return PASSED;
	}
	if (!bpf_map_lookup_elem(&tunnels, key))
		return PASSED;
	return key->protocol == IPPROTO_UDP ? CAPTURED_VXLAN : CAPTURED_IPIP;
}

static __always_inline enum outcome ipv4_outcome(struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return PASSED;

	struct prefix4 prefix = { .length = 32 };
	__builtin_memcpy(prefix.address, &ip->daddr, 4);
	__u32 *ours = bpf_map_lookup_elem(&prefixes4, &prefix);
	if (ours && *ours)
		return CAPTURED_PREFIX;

	if (ip->frag_off & IP_MORE_FRAGMENTS_OR_OFFSET)
		return PASSED;
	struct tunnel key = { .protocol = ip->protocol };
	key.address[10] = key.address[11] = 0xff;
	__builtin_memcpy(key.address + 12, &ip->daddr, 4);
	return tunnel_outcome(&key, (void *)ip + ip->ihl * 4, end);
}

static __always_inline enum outcome ipv6_outcome(struct ipv6hdr *ip, void *end)
{
	if ((void *)(ip + 1) > end || ip->version != 6)
		return PASSED;

	struct prefix6 prefix = { .length = 128 };
	__builtin_memcpy(prefix.address, &ip->daddr, 16);
	__u32 *ours = bpf_map_lookup_elem(&prefixes6, &prefix);
	if (ours && *ours)
		return CAPTURED_PREFIX;

	/* An extension header, a fragment header among them, is none of the protocols below. */
	struct tunnel key = { .protocol = ip->nexthdr };
	__builtin_memcpy(key.address, &ip->daddr, 16);
	return tunnel_outcome(&key, ip + 1, end);
}

SEC("xdp.frags")
int uplink(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	if ((void *)(ethernet + 1) > end)
		return XDP_PASS;

	enum outcome outcome = PASSED;
	if (ethernet->h_proto == NET16(ETH_P_IP))
		outcome = ipv4_outcome((void *)(ethernet + 1), end);
	else if (ethernet->h_proto == NET16(ETH_P_IPV6))
		outcome = ipv6_outcome((void *)(ethernet + 1), end);

	int action = XDP_PASS;
	if (outcome != PASSED) {
		action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
		if (action != XDP_REDIRECT)
			outcome = NO_SOCKET;
	}
	count(outcome);
	return action;
}

char license_text[] SEC("license") = "Apache-2.0";
