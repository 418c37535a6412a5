/* A sink in the kernel: notes each marked packet of a run and takes it off the way; whatever else comes is the host's.
 *
 * Notes go into rings in memory that user space has mapped. A ring has one writer at a time: in the driver that is the receive queue, which
 * one CPU serves at a time, in order; in the stack (generic mode) it is the CPU. The writer publishes a note by an atomic exchange, so that
 * whoever sees the new count sees the note. A ring that is full loses the note, which is counted.
 * The structures are those of src/live_frames/recorder.rs.
 */
#include "bpf.h"

#include <linux/if_ether.h>

#define RINGS 64
#define MARK_BYTES 22
#define VXLAN_PORT 4789

struct control {
	__u32 run;
	/* Entries of a ring less one. */
	__u32 mask;
	/* A ring for each CPU, not each queue. */
	__u32 by_cpu;
	/* Packets are sent to AF_XDP sockets, not noted. */
	__u32 to_sockets;
	/* Not marked packets are taken, but TCP from or to this port; 0: marked ones. */
	__be16 tcp_port;
	__u16 unused;
	__u32 unused_too;
};

/* Each index on cache lines of its own. */
struct head {
	__u64 written;
	__u64 lost;
	__u64 unused[6];
	__u64 read;
	__u64 unused_too[7];
};

struct note {
	__u64 now_ns;
	__u64 sent_ns;
	__u64 sequence;
	__u32 flow;
	__u32 length;
};

#define ARRAY(name_, entries_, type_) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__uint(max_entries, entries_); \
		__type(key, __u32); \
		__type(value, type_); \
	} name_ SEC(".maps")

ARRAY(controls, 1, struct control);
ARRAY(heads, RINGS, struct head);
ARRAY(notes, 1, struct note);

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, RINGS);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

static __u64 (*bpf_xdp_get_buff_len)(struct xdp_md *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;

/* Where an Ethernet payload's mark may be; 0: nowhere. Looks into one tunnel. */
static __always_inline __u8 *find_mark(void *data, void *end)
{
	__u8 *at = data;
	__u32 type;

	if (at + 14 > (__u8 *)end)
		return 0;
	type = *(__be16 *)(at + 12);
	at += 14;
	if (type == NET16(ETH_P_8021Q)) {
		if (at + 4 > (__u8 *)end)
			return 0;
		type = *(__be16 *)(at + 2);
		at += 4;
	}
	for (int level = 0; level < 2; level++) {
		__u8 protocol;
		if (type == NET16(ETH_P_IP)) {
			if (at + 20 > (__u8 *)end)
				return 0;
			__u32 header = (*at & 15) * 4;
			protocol = at[9];
			/* The first part of a datagram has the ports and the mark. */
			if (header < 20 || (*(__be16 *)(at + 6) & NET16(0x1fff)))
				return 0;
			at += header;
		} else if (type == NET16(ETH_P_IPV6)) {
			if (at + 40 > (__u8 *)end)
				return 0;
			protocol = at[6];
			at += 40;
		} else {
			return 0;
		}
		switch (protocol) {
		case 17:
			if (at + 8 > (__u8 *)end)
				return 0;
			if (level == 0 && *(__be16 *)(at + 2) == NET16(VXLAN_PORT)) {
				/* UDP, VXLAN, Ethernet. */
				if (at + 30 > (__u8 *)end)
					return 0;
				type = *(__be16 *)(at + 28);
				at += 30;
				continue;
			}
			return at + 8;
		case 6: {
			if (at + 20 > (__u8 *)end)
				return 0;
			__u32 header = (at[12] >> 4) * 4;
			return header < 20 ? 0 : at + header;
		}
		case 1:
		case 58:
			return at + 8;
		case 4:
			type = NET16(ETH_P_IP);
			continue;
		case 41:
			type = NET16(ETH_P_IPV6);
			continue;
		default:
			return 0;
		}
	}
	return 0;
}

/* Whether a packet, as a device of a kernel's own stack would take it, is TCP from or to a port. */
static __always_inline int is_tcp(__u8 *at, __u8 *end, __be16 port)
{
	__u8 protocol;

	if (at + 34 > end)
		return 0;
	if (*(__be16 *)(at + 12) == NET16(ETH_P_IP)) {
		__u32 header = (at[14] & 15) * 4;
		protocol = at[23];
		if (header < 20 || (*(__be16 *)(at + 20) & NET16(0x1fff)))
			return 0;
		at += 14 + header;
	} else if (*(__be16 *)(at + 12) == NET16(ETH_P_IPV6)) {
		protocol = at[20];
		at += 54;
	} else {
		return 0;
	}
	return protocol == 6 && at + 20 <= end && (*(__be16 *)at == port || *(__be16 *)(at + 2) == port);
}

SEC("xdp.frags")
int record(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct control *c = bpf_map_lookup_elem(&controls, &zero);
	if (!c)
		return XDP_PASS;
	if (c->tcp_port) {
		if (!is_tcp(data, end, c->tcp_port))
			return XDP_PASS;
		return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
	}
	__u8 *mark = find_mark(data, end);
	if (!mark || mark + MARK_BYTES > (__u8 *)end)
		return XDP_PASS;
	if (*(__be32 *)mark != TO_NET32(c->run))
		return XDP_PASS;
	if (c->to_sockets)
		return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);

	__u32 which = (c->by_cpu ? bpf_get_smp_processor_id() : ctx->rx_queue_index) % RINGS;
	struct head *head = bpf_map_lookup_elem(&heads, &which);
	if (!head)
		return XDP_DROP;
	__u64 written = head->written;
	if (written - *(volatile __u64 *)&head->read > c->mask) {
		head->lost++;
		return XDP_DROP;
	}
	__u32 index = which * (c->mask + 1) + (written & c->mask);
	struct note *note = bpf_map_lookup_elem(&notes, &index);
	if (!note) {
		/* More queues, or CPUs, than there are rings: never silently. */
		head->lost++;
		return XDP_DROP;
	}
	note->now_ns = bpf_ktime_get_ns();
	note->flow = TO_NET32(*(__be32 *)(mark + 4));
	note->sequence = (__u64)TO_NET16(*(__be16 *)(mark + 8)) << 32 | TO_NET32(*(__be32 *)(mark + 10));
	note->sent_ns = TO_NET64(*(__be64 *)(mark + 14));
	note->length = bpf_xdp_get_buff_len(ctx);
	__sync_lock_test_and_set(&head->written, written + 1);
	return XDP_DROP;
}

char license_text[] SEC("license") = "Apache-2.0";
