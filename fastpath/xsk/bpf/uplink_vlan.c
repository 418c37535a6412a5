/* The program of uplink.c for devices that take VLAN tags off, and say so when asked: what had a tag is the host's, as it is where the tag is
 * still in the frame. Without asking, a frame of any VLAN would look as if it had come untagged, and be captured.
 *
 * What is asked is a function of the kernel (bpf_xdp_metadata_rx_vlan_tag), not a helper with a number of its own: its number is
 * that of its type in the running kernel, which user space puts in the place of the one here (xdp/device_bound.rs). The kernel lets only programs whose licence
 * is compatible with the GPL call its functions: as compiled from here, uplink.c and bpf.h may be used under Apache-2.0, under
 * BSD-2-Clause or under GPL-2.0, as you choose.
 */
#define DEVICE_TELLS_VLAN
#include "uplink.c"
