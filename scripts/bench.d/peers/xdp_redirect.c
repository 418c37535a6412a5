/*
 * A router in one XDP program: the kernel's own tables say where an IPv4 packet goes, and by which MAC addresses. A peer of
 * scripts/bench; nothing of the product.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>

#define SEC(name) __attribute__((section(name), used))
#define be16(value) __builtin_bswap16(value)

static long (*bpf_redirect)(__u32, __u64) = (void *)BPF_FUNC_redirect;
static long (*bpf_fib_lookup)(void *, struct bpf_fib_lookup *, int, __u32) = (void *)BPF_FUNC_fib_lookup;

enum { AF_INET4 = 2 };

SEC("xdp")
int forward(struct xdp_md *context) {
  void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
  struct ethhdr *ethernet = data;
  struct iphdr *ip = (void *)(ethernet + 1);
  if ((void *)(ip + 1) > end || ethernet->h_proto != be16(ETH_P_IP) || ip->ihl != 5 || ip->ttl <= 1) return XDP_PASS;

  struct bpf_fib_lookup fib = {
      .family = AF_INET4,
      .tos = ip->tos,
      .l4_protocol = ip->protocol,
      .tot_len = be16(ip->tot_len),
      .ipv4_src = ip->saddr,
      .ipv4_dst = ip->daddr,
      .ifindex = context->ingress_ifindex,
  };
  if (bpf_fib_lookup(context, &fib, sizeof fib, 0) != BPF_FIB_LKUP_RET_SUCCESS) return XDP_PASS;

  /* RFC 1624: TTL less one is the checksum plus 0x0100, with the carry brought round. */
  __u32 check = ip->check;
  check += be16(0x0100);
  ip->check = check + (check >= 0xffff);
  ip->ttl--;
  __builtin_memcpy(ethernet->h_dest, fib.dmac, ETH_ALEN);
  __builtin_memcpy(ethernet->h_source, fib.smac, ETH_ALEN);
  return bpf_redirect(fib.ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
