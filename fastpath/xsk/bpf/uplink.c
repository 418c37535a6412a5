/* The program on an uplink: takes what is the fastpath's, and leaves the host its network.
 *
 *   frame ── IPv4 or IPv6? ──no──────────────────────────────────────────────────────────► pass
 *              │ destination in a captured prefix? (fragments too)       ──yes──► socket of this queue
 *              │ fragment, to an address where ports are captured?       ──yes──► socket of this queue
 *              │ to a captured (address, protocol, port)?                ──yes──► socket of this queue
 *              │ to a translated port or echo identifier of the address? ──yes──► socket of this queue
 *              │ ICMP error about a packet from one of the last two?     ──yes──► socket of this queue
 *              └─────────────────────────────────────────────────────────────────────────► pass
 *
 * The program knows nothing by itself: what is captured is in maps that user space fills. Everything that is not
 * recognised (ARP, VLAN tags, extension headers, truncated headers) passes, as does everything while a queue has no socket. User
 * space holds the program's only link and does not pin it: when the process ends, however it ends, the program is gone.
 *
 * Only the first fragment says which port it is for, and taking some fragments of a datagram and leaving others would break both
 * readers: so all fragments to an address where ports are captured are taken, and user space gives the host back what is the
 * host's. Where only tunnels end, fragments pass.
 */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "bpf.h"

#define IP_FRAGMENT_OFFSET NET16(0x1fff)
#define IP_MORE_FRAGMENTS_OR_OFFSET NET16(0x3fff)
#define NEXT_IPV6_FRAGMENT 44
#define NEXT_ICMPV6 58

/* Socket by receive queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* A local address (IPv4 as ::ffff:a.b.c.d), a protocol, and, if that has ports, a port: tunnels that end here, node ports. */
struct door {
	__u8 address[16];
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

/* The value says what is behind the door: an outcome. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct door);
	__type(value, __u32);
} doors SEC(".maps");

/* A local address at which ports are captured: fragments to it are, too. Ports that stand for pods' are first to last, in host
 * byte order; none: last is below first. */
struct translated {
	__u16 first;
	__u16 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u8[16]);
	__type(value, struct translated);
} locals SEC(".maps");

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
	CAPTURED_SERVICE,
	CAPTURED_TRANSLATED,
	CAPTURED_ERROR,
	CAPTURED_FRAGMENT,
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

/* What TCP, UDP, SCTP, and of an echo's fields the identifier, have in common: all within the first eight bytes. */
struct l4 {
	__be16 source;
	__be16 destination;
	__be16 identifier; /* of an ICMP echo, whose type is the first byte */
	__be16 rest;
};

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline int stands_for_a_pod(struct translated *local, __be16 port)
{
	__u16 number = NET16(port);
	return local && number >= local->first && number <= local->last;
}

/* Who has a port of ours: a door, or a pod behind the address. */
static __always_inline enum outcome port_outcome(struct door *key, struct translated *local)
{
	if (stands_for_a_pod(local, key->port))
		return CAPTURED_TRANSLATED;
	__u32 *behind = bpf_map_lookup_elem(&doors, key);
	return behind ? *behind : PASSED;
}

/* The packet that an ICMP error is about, which the address has sent: `l4` is its transport header. */
static __always_inline enum outcome quoted_outcome(struct door *key, struct translated *local, struct l4 *l4, void *end)
{
	if ((void *)(l4 + 1) > end)
		return PASSED;
	__u8 type = *(__u8 *)l4;
	int is_echo = (key->protocol == IPPROTO_ICMP && type == ICMP_ECHO) ||
		      (key->protocol == NEXT_ICMPV6 && type == ICMPV6_ECHO_REQUEST);
	if (is_echo)
		return stands_for_a_pod(local, l4->identifier) ? CAPTURED_ERROR : PASSED;
	if (!has_ports(key->protocol))
		return PASSED;
	key->port = l4->source;
	enum outcome outcome = port_outcome(key, local);
	/* Errors about our tunnel packets are the host's: it has the route. */
	return outcome == CAPTURED_SERVICE || outcome == CAPTURED_TRANSLATED ? CAPTURED_ERROR : PASSED;
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

	struct door key = { .protocol = ip->protocol };
	key.address[10] = key.address[11] = 0xff;
	__builtin_memcpy(key.address + 12, &ip->daddr, 4);
	struct translated *local = bpf_map_lookup_elem(&locals, key.address);
	if (ip->frag_off & IP_MORE_FRAGMENTS_OR_OFFSET)
		return local ? CAPTURED_FRAGMENT : PASSED;
	if (ip->protocol == IPPROTO_IPIP)
		return port_outcome(&key, 0);

	struct l4 *l4 = (void *)ip + ip->ihl * 4;
	if ((void *)(l4 + 1) > end)
		return PASSED;
	if (has_ports(ip->protocol)) {
		key.port = l4->destination;
		return port_outcome(&key, local);
	}
	if (ip->protocol != IPPROTO_ICMP)
		return PASSED;
	switch (*(__u8 *)l4) {
	case ICMP_ECHOREPLY:
		return stands_for_a_pod(local, l4->identifier) ? CAPTURED_TRANSLATED : PASSED;
	case ICMP_DEST_UNREACH:
	case ICMP_SOURCE_QUENCH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		break;
	default:
		return PASSED;
	}
	struct iphdr *quoted = (void *)(l4 + 1);
	if (!local || (void *)(quoted + 1) > end || quoted->version != 4 || quoted->ihl < 5 || quoted->saddr != ip->daddr ||
	    quoted->frag_off & IP_FRAGMENT_OFFSET)
		return PASSED;
	key.protocol = quoted->protocol;
	return quoted_outcome(&key, local, (void *)quoted + quoted->ihl * 4, end);
}

static __always_inline int same_address(struct in6_addr *a, struct in6_addr *b)
{
	return a->s6_addr32[0] == b->s6_addr32[0] && a->s6_addr32[1] == b->s6_addr32[1] && a->s6_addr32[2] == b->s6_addr32[2] &&
	       a->s6_addr32[3] == b->s6_addr32[3];
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

	/* An extension header other than a fragment's is none of the protocols below. */
	struct door key = { .protocol = ip->nexthdr };
	__builtin_memcpy(key.address, &ip->daddr, 16);
	struct translated *local = bpf_map_lookup_elem(&locals, key.address);
	if (ip->nexthdr == NEXT_IPV6_FRAGMENT)
		return local ? CAPTURED_FRAGMENT : PASSED;
	if (ip->nexthdr == IPPROTO_IPIP)
		return port_outcome(&key, 0);

	struct l4 *l4 = (void *)(ip + 1);
	if ((void *)(l4 + 1) > end)
		return PASSED;
	if (has_ports(ip->nexthdr)) {
		key.port = l4->destination;
		return port_outcome(&key, local);
	}
	if (ip->nexthdr != NEXT_ICMPV6)
		return PASSED;
	switch (*(__u8 *)l4) {
	case ICMPV6_ECHO_REPLY:
		return stands_for_a_pod(local, l4->identifier) ? CAPTURED_TRANSLATED : PASSED;
	case ICMPV6_DEST_UNREACH:
	case ICMPV6_PKT_TOOBIG:
	case ICMPV6_TIME_EXCEED:
	case ICMPV6_PARAMPROB:
		break;
	default:
		return PASSED;
	}
	struct ipv6hdr *quoted = (void *)(l4 + 1);
	if (!local || (void *)(quoted + 1) > end || quoted->version != 6 || !same_address(&quoted->saddr, &ip->daddr))
		return PASSED;
	key.protocol = quoted->nexthdr;
	return quoted_outcome(&key, local, (void *)(quoted + 1), end);
}

#ifdef DEVICE_TELLS_VLAN
/* The tag that the device took off, if it did: 0. A placeholder that no helper has (xdp/device_bound.rs). */
static int (*rx_vlan_tag)(struct xdp_md *ctx, __be16 *protocol, __u16 *tci) = (void *)0x7ca70001;
#define LICENCE "Dual BSD/GPL"
#else
#define LICENCE "Apache-2.0"
#endif

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

#ifdef DEVICE_TELLS_VLAN
	__be16 protocol;
	__u16 tci;
	if (outcome != PASSED && rx_vlan_tag(ctx, &protocol, &tci) == 0)
		outcome = PASSED;
#endif
	int action = XDP_PASS;
	if (outcome != PASSED) {
		action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS);
		if (action != XDP_REDIRECT)
			outcome = NO_SOCKET;
	}
	count(outcome);
	return action;
}

char license_text[] SEC("license") = LICENCE;
