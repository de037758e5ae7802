"""A pod with CAP_NET_ADMIN forges marks and responses of the kernel, and the frozen plugins do not follow them."""

from __future__ import annotations

import json

from tests.lab.attaching import changes, conf

MARK = "barewire {address} evil0 net/x/net1"

FORGER = """
import _socket, struct, sys

index, device = int(sys.argv[1]), sys.argv[2].encode()
header = struct.Struct("=IHHII")

def attribute(kind, text):
    return struct.pack("=HH", 4 + len(text), kind) + text + bytes(-len(text) % 4)

link = struct.pack("=BxHiII", 0, 1, index, 0, 0) + attribute(3, b"net1\\0")
link += attribute(56, device + b"\\0") + attribute(57, b"pci\\0")

def answers(port):
    for number in range(1, 20):
        yield header.pack(16 + len(link), 16, 2, number, port) + link + header.pack(20, 3, 2, number, port) + bytes(4)

socket = _socket.socket(16, _socket.SOCK_RAW, 0)
socket.setblocking(False)
socket.bind((0, 0))
print("forging", flush=True)
while True:
    with open("/proc/self/net/netlink") as table:
        rows = [line.split() for line in table]
    for port in [int(row[2]) for row in rows if row[1] == "0"]:
        for answer in answers(port) if port not in (0, socket.getsockname()[0]) else ():
            try:
                socket.sendto(answer, (port, 0))
            except OSError:
                break
"""
CONFINED = ("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin")


def test_del_does_not_take_a_pods_own_link_for_the_vf_when_the_pod_answers_for_the_kernel(lab):
    vf, pod, hidden = lab.vfs[0], lab.pod(), lab.pod()
    lab.runtime.add(conf(vf), pod).required()
    pod.ip("link", "add", "evil0", "type", "veth", "peer", "name", "evil1")
    lab.vm.run("ip", "-n", pod.name, "link", "set", "net1", "netns", hidden.name)
    forger = pod.start(*CONFINED, "python3", "-c", FORGER, str(pod.link("evil0")["ifindex"]), vf.address)
    forger.wait_for_output("forging")
    for _ in range(3):
        assert lab.runtime.delete(conf(vf), pod).error["code"] == 11
        assert {"evil0", "evil1"} <= set(pod.interfaces())
        assert [
            one for one in json.loads(lab.vm.run("ip", "-j", "link", "show", "type", "veth").out or "[]") if one
        ] == []
    forger.kill()
    hidden.ip("link", "set", "net1", "netns", pod.name)
    lab.runtime.delete(conf(vf), pod).required()
    assert changes(lab) == []


def seen(lab, vf):
    """Name, address, alias and MTU; whether it is up; its IPv4 addresses."""
    (alias,) = [one["ifalias"] for one in json.loads(lab.vm.run("ip", "-d", "-j", "link", "show", str(vf.netdev)).out)]
    (link,) = json.loads(lab.vm.run("ip", "-j", "addr", "show", "dev", str(vf.netdev)).out)
    addresses = [one["local"] for one in link["addr_info"] if one["family"] == "inet"]
    return {key: link[key] for key in ("ifname", "address", "mtu")}, alias, "UP" in link["flags"], addresses


def test_a_vf_of_the_host_with_a_forged_mark_is_left_alone_by_gc_and_refused_to_a_pod(lab):
    vf, pod = lab.vfs[5], lab.pod()
    lab.vm.sh(
        f"ip link set {vf.netdev} alias '{MARK.format(address=vf.address)}' up; ip addr add 192.0.2.6/24 dev {vf.netdev}"
    )
    before = seen(lab, vf)
    gc = lab.runtime.gc({**conf(vf), "cniVersion": "1.1.0"}, []).required()
    assert "Barewire did not set it" in gc.stderr
    done = lab.vm.run(f"{lab.runtime.bin_dir}/barewire", "gc", "--apply")
    assert done.out == "nothing is left behind\n"
    assert lab.runtime.add(conf(vf), pod).error["code"] == 100
    assert seen(lab, vf) == before
    lab.vm.sh(f"ip addr flush dev {vf.netdev}; ip link set {vf.netdev} alias '' down")
