"""Configuration of `barewire-ipam`: the model from which table, JSON Schema and reference are generated.

The keys are host-local's, static's and whereabouts'; `backend`, `etcd` and `nodeName` are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cni.config.model_fields import Model, Section
from ipam.config.rules import cross_check

Number = Annotated[int, Field(ge=0, le=(1 << 32) - 1)]


class Subnet(Section):
    """A range as host-local has it."""

    subnet: str | None = Field(None, description="Its subnet, as CIDR without host bits.")
    rangeStart: str | None = Field(None, description="First address. Default: the subnet's first host.")
    rangeEnd: str | None = Field(None, description="Last address. Default: the subnet's last host.")
    gateway: str | None = Field(None, description="Gateway, leased to nobody. Default: the subnet's first host.")
    exclude: list[str] | None = Field(None, description="Addresses and subnets that are leased to nobody.")


class Stretch(Section):
    """A range as whereabouts has it."""

    range: str | None = Field(None, description="A CIDR, or first-last/prefix length.")
    range_start: str | None = Field(None, description="First address. Default: what `range` says.")
    range_end: str | None = Field(None, description="Last address. Default: what `range` says.")
    exclude: list[str] | None = Field(None, description="Addresses and subnets that are leased to nobody.")


class FixedAddress(Section):
    """An address that is reported, and kept nowhere."""

    address: str | None = Field(None, description="The address, as CIDR.")
    gateway: str | None = Field(None, description="Its gateway. Default: none.")


class RouteEntry(Section):
    """A route of the result."""

    dst: str | None = Field(None, description="Destination, as CIDR.")
    gw: str | None = Field(None, description="Gateway. Default: that of the address.")
    mtu: Number | None = Field(None, description="MTU in bytes.")
    advmss: Number | None = Field(None, description="Maximal segment size that is advertised, in bytes.")
    priority: Number | None = Field(None, description="Priority; of several routes the one with the lowest is taken.")
    table: Number | None = Field(None, description="Number of the routing table.")
    scope: Number | None = Field(None, description="Scope, as the kernel numbers them.")


class NameService(Section):
    """Name service of the result."""

    nameservers: list[str] | None = Field(None, description="Addresses of the servers.")
    domain: str | None = Field(None, description="The domain of the interface.")
    search: list[str] | None = Field(None, description="Domains in which short names are looked for.")
    options: list[str] | None = Field(None, description="Options of the resolver.")


class Etcd(Section):
    """How etcd is reached."""

    endpoints: list[str] | None = Field(None, description="URLs of its members, such as https://10.0.0.1:2379.")
    prefix: str | None = Field(
        None, description="What our keys begin with; not another program's, such as /registry. Default /barewire/ipam."
    )
    caFile: str | None = Field(
        None, description="Certificates of the authority, in PEM, below /etc/barewire, /etc/cni or /etc/kubernetes/cni."
    )
    certFile: str | None = Field(None, description="Our certificate, in PEM, in one of these directories.")
    keyFile: str | None = Field(None, description="Its key, in PEM, in one of these directories.")


class Kubernetes(Section):
    """How the API server is reached."""

    kubeconfig: str | None = Field(
        None,
        description="Access to the API server; a file in a usual place, such as /etc/cni/net.d. Default: the node's, else a pod's own credentials.",
    )
    namespace: str | None = Field(
        None, description="Where whereabouts' resources are. Default: the kubeconfig's, else kube-system."
    )
    k8s_api_root: Any = Field(None, description="whereabouts'; ignored, the kubeconfig tells.")


class Ipam(Section):
    """The section `ipam`."""

    type: str | None = Field(None, description="`barewire-ipam`.")
    backend: Literal["local", "etcd", "kubernetes"] | None = Field(
        None,
        description="Where addresses are kept: on the node, in etcd, or in whereabouts' resources. Default: the node configuration's, else local.",
    )
    subnet: str | None = Field(None, description="Subnet of a single range, as CIDR.")
    rangeStart: str | None = Field(None, description="First address of it. Default: the subnet's first host.")
    rangeEnd: str | None = Field(None, description="Last address of it. Default: the subnet's last host.")
    gateway: str | None = Field(
        None, description="Gateway. Default: the subnet's first host, but none with `range` and `ipRanges`."
    )
    ranges: list[list[Subnet]] | None = Field(None, description="Sets of ranges: an address of each set.")
    range: str | None = Field(None, description="whereabouts': a CIDR, or first-last/prefix length.")
    range_start: str | None = Field(None, description="whereabouts': first address of `range`.")
    range_end: str | None = Field(None, description="whereabouts': last address of `range`.")
    ipRanges: list[Stretch] | None = Field(None, description="whereabouts': ranges, an address of each.")
    exclude: list[str] | None = Field(None, description="Addresses and subnets that are leased to nobody.")
    addresses: list[FixedAddress] | None = Field(
        None, description="Fixed addresses: they are reported, and kept nowhere."
    )
    routes: list[RouteEntry] | None = Field(None, description="Routes, passed on.")
    dns: NameService | None = Field(None, description="Name service, passed on.")
    resolvConf: str | None = Field(
        None,
        description="File with the name service, as resolv.conf, without `dns`; a resolver's own, or below /etc/cni.",
    )
    dataDir: str | None = Field(
        None,
        description="Directory of backend local, with one for each network, below /var/lib/cni or /run. Default /var/lib/cni/networks.",
    )
    etcd: Etcd | None = Field(None, description="How backend etcd is reached.")
    kubernetes: Kubernetes | None = Field(None, description="How backend kubernetes is reached.")
    nodeName: str | None = Field(
        None,
        description="This node's name for the cluster's backends. Default: the node configuration's, the kubelet's, the host's.",
    )
    network_name: str | None = Field(
        None, description="Name of the network in the cluster's backends, where addresses of several are to be apart."
    )
    enable_overlapping_ranges: bool | None = Field(
        None, description="Whether backend kubernetes looks for the address in other pools, too. Default true."
    )
    node_slice_size: str | None = Field(None, description="whereabouts'; not supported.")
    configuration_path: Any = Field(
        None, description="whereabouts' second file, for its kubeconfig. Default: whereabouts.conf in its usual places."
    )
    datastore: Any = Field(
        None,
        description="whereabouts'; ignored beside `backend`. Without that, another one than `kubernetes` is not served.",
    )
    etcd_host: Any = Field(None, description="whereabouts'; ignored, `etcd` says it.")
    etcd_username: Any = Field(None, description="whereabouts'; ignored, client certificates give access to etcd.")
    etcd_password: Any = Field(None, description="whereabouts'; ignored, client certificates give access to etcd.")
    etcd_key_file: Any = Field(None, description="whereabouts'; ignored, `etcd` says it.")
    etcd_cert_file: Any = Field(None, description="whereabouts'; ignored, `etcd` says it.")
    etcd_ca_cert_file: Any = Field(None, description="whereabouts'; ignored, `etcd` says it.")
    sleep_for_race: Any = Field(None, description="whereabouts'; ignored, it is for tests.")
    log_file: Any = Field(None, description="whereabouts'; ignored.")
    log_level: Any = Field(None, description="whereabouts'; ignored.")
    reconciler_cron_expression: Any = Field(None, description="whereabouts'; ignored.")
    leader_lease_duration: Any = Field(None, description="whereabouts'; ignored, there is no leader.")
    leader_renew_deadline: Any = Field(None, description="whereabouts'; ignored, there is no leader.")
    leader_retry_period: Any = Field(None, description="whereabouts'; ignored, there is no leader.")


class RuntimeConfig(Model):
    """What the runtime passes for the capabilities `ips` and `ipRanges`."""

    ips: list[str] | None = Field(None, description="Addresses that are asked for.")
    ipRanges: list[list[Subnet]] | None = Field(
        None, description="Sets of ranges as in `ipam.ranges`; they come before all others."
    )


class CniArguments(Model):
    """`args.cni`."""

    ips: list[str] | None = Field(None, description="Addresses that are asked for.")


class Arguments(Model):
    """`args`."""

    cni: CniArguments | None = Field(None, description="Arguments for plugins, by convention of the CNI project.")


class IpamConf(Model):
    """What the IPAM plugin reads of a network configuration."""

    ipam: Ipam = Field(description="The plugin's own section.")
    runtimeConfig: RuntimeConfig | None = Field(None, description="Filled in by the runtime.")
    args: Arguments | None = Field(None, description="Arguments of the invocation.")
    strictConfig: bool | None = Field(None, description="true: refuse unknown keys of `ipam` instead of warning.")

    @model_validator(mode="after")
    def _cross_check(self) -> IpamConf:
        problems = cross_check(self.model_dump(exclude_none=True))
        if problems:
            raise ValueError("; ".join(f"{path}: {text}" for path, text in problems))
        return self
