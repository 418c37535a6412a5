/* The program on the host's end of a pod's veth: everything that the pod sends goes to the fastpath, or nowhere.
 *
 * It is pinned, with its map and its link, so it stays when the fastpath dies. Then the map is empty (a socket leaves the map when it
 * is closed, however its process ended) and the action in the flags of bpf_redirect_map applies: drop. That is
 * the promise "fail closed": a pod without a data plane is cut off, not unfiltered.
 */
#include "bpf.h"

/* Socket by receive queue of the veth. One map for each veth: queue 0 of every pod is another socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* ".frags" tells the kernel that we can live with packets in several buffers; without it a veth with a large MTU refuses us. */
SEC("xdp.frags")
int pod(struct xdp_md *ctx)
{
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
}

char license_text[] SEC("license") = "Apache-2.0";
