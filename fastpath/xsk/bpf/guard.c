/* The guard on the host's end of a pod's veth whose port is a packet socket: the kernel gets nothing of what the pod sends.
 *
 * A packet socket gets a copy; the frame itself goes on into the kernel, which would answer it, forward it, or hand it to a process of the host.
 * The taps of packet sockets come before this hook (net/core/dev.c, __netif_receive_skb_core), so the copy has been made when the frame ends here.
 *
 * Its link is pinned, so it stays when the fastpath dies: the pod is cut off then, not unfiltered.
 */
#include "bpf.h"

#include <linux/pkt_cls.h>

SEC("classifier")
int guard(struct __sk_buff *frame)
{
	(void)frame;
	return TC_ACT_SHOT;
}

char license_text[] SEC("license") = "Apache-2.0";
