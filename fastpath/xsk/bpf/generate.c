/* A generator's core: makes a frame of each that BPF_PROG_TEST_RUN gives it, and sends it out of the device that it is said to have come by.
 *
 * User space says what (flows, templates, and the deck: whose turn it is and how long its frame is) and when (the control). The kernel gives us
 * the same pages again and again, as the last receiver left them, so every byte that a receiver may have changed is written anew:
 * all headers, from the template. What follows the mark is zero and nobody's to change, so checksums need not look at it.
 *
 * A packet is due when its time has come and there are tokens. When none is due the frame is dropped: that is how we wait,
 * for a few dozen nanoseconds a frame. The structures are those of src/live_frames/generator.rs.
 */
#include "bpf.h"

#define TEMPLATE_BYTES 192
/* What a mark takes; see pktgen's payload.rs. */
#define MARK_BYTES 22
#define SCOUT ((1ULL << 48) - 1)

enum kind { RAW = 0, UDP = 1, TCP = 2, ECHO = 3 };

struct control {
	/* When the next packet is due, nanoseconds of the monotonic clock and 2^-32 of them. */
	__u64 due_ns;
	__u64 interval_ns;
	__u32 due_fraction;
	__u32 interval_fraction;
	/* How far behind we may be before packets are left out. */
	__u64 catch_up_ns;
	__u64 deadline_ns;
	__u64 tokens;
	__u64 missed;
	__u64 sent;
	__u64 bytes;
	__u32 run;
	/* All are scouts: marked so, and not counted. */
	__u32 scouting;
	__u32 deck_at;
	__u32 deck_len;
	/* Frames that we could not make. */
	__u64 failed;
};

struct pick {
	__u32 flow;
	__u16 length;
	__u16 unused;
};

struct flow {
	/* IPv4 addresses in the last four bytes of each. */
	__u8 source[16];
	__u8 destination[16];
	__be16 source_port;
	__be16 destination_port;
	/* Sums of 16-bit words in memory order, folded: of the IPv4 header and of pseudo-header and L4 header, without what we write. */
	__u16 ip_sum;
	__u16 l4_sum;
	__u32 id;
	__u16 template;
	__be16 outer_port;
	__u64 sequence;
	__u32 tcp_sequence;
	__u32 unused;
};

struct template {
	__u8 bytes[TEMPLATE_BYTES];
	/* How many of them are written to each frame, if it is that long. */
	__u16 copy;
	__u8 kind;
	__u8 ipv6;
	/* Where headers begin; an outer one at 0 is none. */
	__u8 outer_ip;
	__u8 outer_udp;
	__u8 ip;
	__u8 l4;
	__u8 l4_header;
	/* Whether the L4 checksum is made. */
	__u8 checksum;
	/* Of the outer IPv4 header, as in struct flow. */
	__u16 outer_sum;
	/* What a packet adds to the flow's TCP sequence number beside its payload. */
	__u32 tcp_step;
};

#define ARRAY(name_, type_) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__uint(max_entries, 1); \
		__type(key, __u32); \
		__type(value, type_); \
	} name_ SEC(".maps")

ARRAY(controls, struct control);
ARRAY(deck, struct pick);
ARRAY(flows, struct flow);
ARRAY(templates, struct template);

static long (*bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static long (*bpf_xdp_store_bytes)(struct xdp_md *ctx, __u32 at, const void *from, __u32 len) = (void *)BPF_FUNC_xdp_store_bytes;

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Whether a packet is due; takes its token. */
static __always_inline int take(struct control *c, __u64 now)
{
	if (c->tokens == 0 || now < c->due_ns || now >= c->deadline_ns)
		return 0;
	__u64 behind = now - c->due_ns;
	if (behind > c->catch_up_ns && c->interval_ns) {
		__u64 late = (behind - c->catch_up_ns) / c->interval_ns + 1;
		/* One token is for this packet. */
		if (late > c->tokens - 1)
			late = c->tokens - 1;
		__u64 fraction = c->due_fraction + late * c->interval_fraction;
		c->due_ns += late * c->interval_ns + (fraction >> 32);
		c->due_fraction = fraction;
		c->missed += late;
		c->tokens -= late;
		if (now < c->due_ns)
			return 0;
	}
	__u64 fraction = (__u64)c->due_fraction + c->interval_fraction;
	c->due_ns += c->interval_ns + (fraction >> 32);
	c->due_fraction = fraction;
	c->tokens--;
	return 1;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct control *c = bpf_map_lookup_elem(&controls, &zero);
	if (!c)
		return XDP_ABORTED;
	__u64 now = bpf_ktime_get_ns();
	if (!take(c, now))
		return XDP_DROP;

	__u32 at = c->deck_at;
	c->deck_at = at + 1 < c->deck_len ? at + 1 : 0;
	struct pick *pick = bpf_map_lookup_elem(&deck, &at);
	if (!pick)
		goto failed;
	__u32 length = pick->length;
	struct flow *flow = bpf_map_lookup_elem(&flows, &pick->flow);
	if (!flow)
		goto failed;
	__u32 which = flow->template;
	struct template *t = bpf_map_lookup_elem(&templates, &which);
	if (!t)
		goto failed;

	int grow = (int)length - (int)((void *)(long)ctx->data_end - (void *)(long)ctx->data);
	if (grow && bpf_xdp_adjust_tail(ctx, grow))
		goto failed;
	__u32 copy = t->copy < length ? t->copy : length;
	if (copy < 14 || copy > TEMPLATE_BYTES)
		goto failed;
	if (bpf_xdp_store_bytes(ctx, 0, t->bytes, copy))
		goto failed;

	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	if (t->kind == RAW)
		goto sent;

	/* Outer headers, if there are any. */
	__u32 outer = t->outer_ip;
	if (outer) {
		__u8 *ip = data + outer;
		if (ip + 28 > (__u8 *)end)
			goto failed;
		__be16 total = TO_NET16(length - outer);
		*(__be16 *)(ip + 2) = total;
		*(__u16 *)(ip + 10) = ~fold((__u64)t->outer_sum + total);
		if (t->outer_udp) {
			*(__be16 *)(ip + 20) = flow->outer_port;
			*(__be16 *)(ip + 24) = TO_NET16(length - t->outer_udp);
		}
	}

	/* Addresses and lengths. */
	__u32 l3 = t->ip;
	__u32 l4_at = t->l4;
	__be16 l4_len = TO_NET16(length - l4_at);
	if (t->ipv6) {
		__u8 *ip = data + l3;
		if (ip + 40 > (__u8 *)end)
			goto failed;
		/* What follows the fixed header: an upper layer, without extensions. */
		*(__be16 *)(ip + 4) = l4_len;
		__builtin_memcpy(ip + 8, flow->source, 16);
		__builtin_memcpy(ip + 24, flow->destination, 16);
	} else {
		__u8 *ip = data + l3;
		if (ip + 20 > (__u8 *)end)
			goto failed;
		__be16 total = TO_NET16(length - l3);
		*(__be16 *)(ip + 2) = total;
		*(__u16 *)(ip + 10) = ~fold((__u64)flow->ip_sum + total);
		__builtin_memcpy(ip + 12, flow->source + 12, 4);
		__builtin_memcpy(ip + 16, flow->destination + 12, 4);
	}

	/* The mark. */
	__u32 header = t->l4_header;
	__u8 *mark = data + l4_at + header;
	if (mark + MARK_BYTES > (__u8 *)end)
		goto failed;
	__u64 sequence = c->scouting ? SCOUT : flow->sequence;
	__be32 run = TO_NET32(c->run);
	__be32 id = TO_NET32(flow->id);
	__be16 high = TO_NET16(sequence >> 32);
	__be32 low = TO_NET32((__u32)sequence);
	__be64 stamp = TO_NET64(now);
	*(__be32 *)mark = run;
	*(__be32 *)(mark + 4) = id;
	*(__be16 *)(mark + 8) = high;
	*(__be32 *)(mark + 10) = low;
	*(__be64 *)(mark + 14) = stamp;
	__u64 sum = (__u64)flow->l4_sum + l4_len + run + id + high + low + (stamp & 0xffffffff) + (stamp >> 32);

	/* Ports and checksum. */
	__u8 *l4 = data + l4_at;
	if (t->kind == UDP) {
		if (l4 + 8 > (__u8 *)end)
			goto failed;
		*(__be16 *)l4 = flow->source_port;
		*(__be16 *)(l4 + 2) = flow->destination_port;
		*(__be16 *)(l4 + 4) = l4_len;
		if (t->checksum) {
			/* The length counts twice: in the header, too. */
			__u16 checksum = ~fold(sum + l4_len);
			*(__u16 *)(l4 + 6) = checksum ? checksum : 0xffff;
		}
	} else if (t->kind == TCP) {
		if (l4 + 20 > (__u8 *)end)
			goto failed;
		*(__be16 *)l4 = flow->source_port;
		*(__be16 *)(l4 + 2) = flow->destination_port;
		__be32 number = TO_NET32(flow->tcp_sequence);
		*(__be32 *)(l4 + 4) = number;
		*(__u16 *)(l4 + 16) = ~fold(sum + number);
		flow->tcp_sequence += length - l4_at - header + t->tcp_step;
	} else {
		if (l4 + 8 > (__u8 *)end)
			goto failed;
		/* ICMPv4 has no pseudo-header, so its length counts only for ICMPv6. */
		__be16 count = TO_NET16((__u16)sequence);
		*(__be16 *)(l4 + 4) = flow->source_port;
		*(__be16 *)(l4 + 6) = count;
		*(__u16 *)(l4 + 2) = ~fold(sum + count - (t->ipv6 ? 0 : l4_len));
	}
sent:
	if (!c->scouting) {
		flow->sequence++;
		c->sent++;
		c->bytes += length;
	}
	return XDP_TX;
failed:
	c->failed++;
	return XDP_DROP;
}

char license_text[] SEC("license") = "Apache-2.0";
