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
    """A range in host-local's form."""

    subnet: str | None = Field(None, description="Its subnet, as CIDR without host bits.")
    rangeStart: str | None = Field(None, description="First address. Default: the subnet's first host.")
    rangeEnd: str | None = Field(None, description="Last address. Default: the subnet's last host.")
    gateway: str | None = Field(None, description="Gateway, which is never leased. Default: the subnet's first host.")
    exclude: list[str] | None = Field(None, description="Addresses and subnets that are never leased.")


class Stretch(Section):
    """A range in whereabouts' form."""

    range: str | None = Field(None, description="A CIDR, or first-last/prefix length.")
    range_start: str | None = Field(None, description="First address. Default: that of `range`.")
    range_end: str | None = Field(None, description="Last address. Default: that of `range`.")
    exclude: list[str] | None = Field(None, description="Addresses and subnets that are never leased.")


class FixedAddress(Section):
    """An address that is reported without a lease."""

    address: str | None = Field(None, description="The address, as CIDR.")
    gateway: str | None = Field(None, description="Its gateway. Default: none.")


class RouteEntry(Section):
    """A route of the result."""

    dst: str | None = Field(None, description="Destination, as CIDR.")
    gw: str | None = Field(None, description="Gateway. Default: that of the address.")
    mtu: Number | None = Field(None, description="MTU in bytes.")
    advmss: Number | None = Field(None, description="Maximum segment size to advertise, in bytes.")
    priority: Number | None = Field(
        None, description="Priority. Of several routes, the one with the lowest number is used."
    )
    table: Number | None = Field(None, description="Number of the routing table.")
    scope: Number | None = Field(None, description="Scope, by the kernel's number.")


class NameService(Section):
    """The name service in the result."""

    nameservers: list[str] | None = Field(None, description="Addresses of the servers.")
    domain: str | None = Field(None, description="The domain of the interface.")
    search: list[str] | None = Field(None, description="Search domains for short names.")
    options: list[str] | None = Field(None, description="Resolver options.")


class Etcd(Section):
    """Access to etcd."""

    endpoints: list[str] | None = Field(None, description="URLs of its members, such as https://10.0.0.1:2379.")
    prefix: str | None = Field(
        None, description="Prefix of our keys; not that of another program, such as /registry. Default /barewire/ipam."
    )
    caFile: str | None = Field(
        None,
        description="Certificates of the certificate authority in PEM, below /etc/barewire, /etc/cni or /etc/kubernetes/cni.",
    )
    certFile: str | None = Field(None, description="Client certificate in PEM, below one of these directories.")
    keyFile: str | None = Field(
        None, description="Private key of the client certificate in PEM, below one of these directories."
    )


class Kubernetes(Section):
    """Access to the API server."""

    kubeconfig: str | None = Field(
        None,
        description="Kubeconfig for the API server, in a usual directory such as /etc/cni/net.d. Default: the node's, else the pod's service account.",
    )
    namespace: str | None = Field(
        None, description="Namespace of whereabouts' resources. Default: the kubeconfig's, else kube-system."
    )
    k8s_api_root: Any = Field(None, description="whereabouts'; ignored in favour of the kubeconfig.")


class Ipam(Section):
    """The section `ipam`."""

    type: str | None = Field(None, description="`barewire-ipam`.")
    backend: Literal["local", "etcd", "kubernetes"] | None = Field(
        None,
        description="Where leases are kept: on the node, in etcd, or in whereabouts' resources. Default: the node configuration's, else local.",
    )
    subnet: str | None = Field(None, description="Subnet of a single range, as CIDR.")
    rangeStart: str | None = Field(None, description="First address of it. Default: the subnet's first host.")
    rangeEnd: str | None = Field(None, description="Last address of it. Default: the subnet's last host.")
    gateway: str | None = Field(
        None, description="Gateway. Default: the subnet's first host, but none with `range` and `ipRanges`."
    )
    ranges: list[list[Subnet]] | None = Field(None, description="Range sets. The interface gets one address from each.")
    range: str | None = Field(None, description="whereabouts': a CIDR, or first-last/prefix length.")
    range_start: str | None = Field(None, description="whereabouts': first address of `range`.")
    range_end: str | None = Field(None, description="whereabouts': last address of `range`.")
    ipRanges: list[Stretch] | None = Field(
        None, description="whereabouts': ranges. The interface gets one address from each."
    )
    exclude: list[str] | None = Field(None, description="Addresses and subnets that are never leased.")
    addresses: list[FixedAddress] | None = Field(
        None, description="Fixed addresses, which are reported without leases."
    )
    routes: list[RouteEntry] | None = Field(None, description="Routes for the result.")
    dns: NameService | None = Field(None, description="Name service for the result.")
    resolvConf: str | None = Field(
        None,
        description="File in the form of resolv.conf that describes the name service, if `dns` is not set: a resolver's own, or below /etc/cni.",
    )
    dataDir: str | None = Field(
        None,
        description="Directory of backend local, which has a subdirectory for each network. It must be below /var/lib/cni or /run. Default /var/lib/cni/networks.",
    )
    etcd: Etcd | None = Field(None, description="Access to etcd, for backend etcd.")
    kubernetes: Kubernetes | None = Field(None, description="Access to the API server, for backend kubernetes.")
    nodeName: str | None = Field(
        None,
        description="This node's name for backends etcd and kubernetes. Default: the node configuration's, else the kubelet's, else the host's.",
    )
    network_name: str | None = Field(
        None, description="The network's name in backends etcd and kubernetes, which separates the leases of networks."
    )
    enable_overlapping_ranges: bool | None = Field(
        None, description="Whether backend kubernetes also reserves addresses across pools. Default true."
    )
    node_slice_size: str | None = Field(None, description="whereabouts'; not supported.")
    configuration_path: Any = Field(
        None,
        description="whereabouts' second configuration file, for its kubeconfig. Default: whereabouts.conf in its usual directories.",
    )
    datastore: Any = Field(
        None,
        description="whereabouts'; ignored if `backend` is set. Otherwise only `kubernetes` is supported.",
    )
    etcd_host: Any = Field(None, description="whereabouts'; ignored in favour of `etcd`.")
    etcd_username: Any = Field(None, description="whereabouts'; ignored, access to etcd requires client certificates.")
    etcd_password: Any = Field(None, description="whereabouts'; ignored, access to etcd requires client certificates.")
    etcd_key_file: Any = Field(None, description="whereabouts'; ignored in favour of `etcd`.")
    etcd_cert_file: Any = Field(None, description="whereabouts'; ignored in favour of `etcd`.")
    etcd_ca_cert_file: Any = Field(None, description="whereabouts'; ignored in favour of `etcd`.")
    sleep_for_race: Any = Field(None, description="whereabouts'; ignored, it serves tests only.")
    log_file: Any = Field(None, description="whereabouts'; ignored.")
    log_level: Any = Field(None, description="whereabouts'; ignored.")
    reconciler_cron_expression: Any = Field(None, description="whereabouts'; ignored.")
    leader_lease_duration: Any = Field(None, description="whereabouts'; ignored, there is no leader.")
    leader_renew_deadline: Any = Field(None, description="whereabouts'; ignored, there is no leader.")
    leader_retry_period: Any = Field(None, description="whereabouts'; ignored, there is no leader.")


class RuntimeConfig(Model):
    """Values from the runtime for the capabilities `ips` and `ipRanges`."""

    ips: list[str] | None = Field(None, description="Requested addresses.")
    ipRanges: list[list[Subnet]] | None = Field(
        None, description="Range sets as in `ipam.ranges`, which come before all others."
    )


class CniArguments(Model):
    """`args.cni`."""

    ips: list[str] | None = Field(None, description="Requested addresses.")


class Arguments(Model):
    """`args`."""

    cni: CniArguments | None = Field(None, description="Arguments for plugins, by convention of the CNI project.")


class IpamConf(Model):
    """The keys of a network configuration that `barewire-ipam` reads."""

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
