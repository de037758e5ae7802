"""The devices of this node: the offers, the held devices, and the steps of allocation and release."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from cni.errors import CniError, DeviceBusy, DeviceNotFound, TryAgainLater
from cni.host.drivers import gives_to_user_space
from deviceplugin import cdi, container, group
from deviceplugin.assignment import Selection, estranged
from deviceplugin.container import Given
from deviceplugin.counting import Count, counted, recounted
from deviceplugin.each import for_each
from deviceplugin.function import forbidden
from deviceplugin.holding import Holding, holders
from deviceplugin.offer import ailments
from deviceplugin.pool import ALONE, Selector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set as AbstractSet

    from cni.log import Log
    from deviceplugin.assignment import Assignment
    from deviceplugin.conf import Configuration
    from deviceplugin.container import Contents, Node
    from deviceplugin.function import Function
    from deviceplugin.holding import Journal
    from deviceplugin.host import Host, Sight
    from deviceplugin.offer import Offer
    from deviceplugin.pool import Pool


_OPEN = "a process has it open"
_UNSEEN = "it cannot be seen whether a process has it open"
LOOK_SECONDS = 60.0
"""Time limit for a scan of the host: a driver that hangs blocks reads of the attributes of its devices."""


class Stock:
    """Only one task at a time changes the held devices; scans and offers continue during the change.

    The first `look` must precede everything else, because an incomplete list must not be offered. `grants` contains, by
    device, the number of its allocations.
    """

    sight: Sight

    def __init__(self, host: Host, journal: Journal, configuration: Configuration, log: Log) -> None:
        self.host = host
        self._selection = Selection(configuration)
        self.held = journal.load()
        self.grants: dict[str, int] = {}
        self._doubts: dict[str, tuple[str, ...]] = {}
        self._claims: Mapping[tuple[str, str], tuple[str, ...]] = {}
        self._due: set[str] = set()
        """The names of CDI files that may lack held devices, or contain others."""
        self._files_unknown = False
        """Whether CDI files of a killed process may exist."""
        self._journal = journal
        self._log = log
        self._count: Count | None = None
        self._changing = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._looks: asyncio.Future[Sight] | None = None
        """The scan that is running, even if no task waits for it any more."""
        self._changed = asyncio.Event()

    # The host and the offers

    async def look(self, named: AbstractSet[str] | None = None) -> None:
        """Scans the host, or only the functions with some names, and updates the offers.

        Raises `CniError` if that fails; the last scan and the lists of devices do not change then.
        """
        async with self._looking:
            seen, count = await self._seen(named), self._count
            self.sight = seen
            self._drop_strangers()
            if count is None or not seen.is_like(count.sight) or holders(self.held) != count.held:
                self._recount()
            self._place_unknown()

    async def _seen(self, named: AbstractSet[str] | None) -> Sight:
        if self._looks is not None:
            # A scan that exceeded its limit. Its result is outdated, and a second scan would hang as well.
            await self._ended(self._looks)
        self._looks = asyncio.ensure_future(asyncio.to_thread(self.host.look, named))
        return (await self._ended(self._looks)).result()

    async def _ended(self, look: asyncio.Future[Sight]) -> asyncio.Future[Sight]:
        done, _late = await asyncio.wait([look], timeout=LOOK_SECONDS)
        if not done:
            raise TryAgainLater("a look at the host does not end: a driver hangs", hint="see dmesg")
        self._looks = None
        return look

    def configure(self, configuration: Configuration) -> None:
        """Updates the offers for another configuration. Held devices stay with their resources."""
        self._selection = Selection(configuration)
        self._count_all()

    def resources(self) -> tuple[str, ...]:
        """The resources that are served, including those without a device."""
        return tuple(self._offers)

    @property
    def assignment(self) -> Assignment:
        """The pools and their functions. It does not exist before the first scan."""
        if self._count is None:
            raise AttributeError("the host has not been looked at yet")
        return self._count.assignment

    @property
    def _offers(self) -> Mapping[str, tuple[Offer, ...]]:
        return self._count.offers if self._count else {}

    def offers(self, resource: str) -> tuple[Offer, ...]:
        return self._offers.get(resource, ())

    def spreads(self, resource: str) -> bool:
        """Whether several devices of the resource for one container should be on different PFs."""
        pool = self.assignment.pools.get(resource)
        return pool is not None and pool.spread

    async def changes(self) -> None:
        """Returns after the next change."""
        await self._changed.wait()

    async def watch(self, resource: str) -> AsyncIterator[tuple[Offer, ...]]:
        """The resource's devices now, and again after each change of them."""
        sent = None
        while True:
            changed, present = self._changed, self.offers(resource)
            if present != sent:
                yield present
                sent = present
            await changed.wait()

    def _drop_strangers(self) -> None:
        """Drops holdings of functions whose address another function has now. That function is not touched."""
        for device, holding in list(self.held.items()):
            function = self.sight.inventory.get(device)
            reason = estranged(function, holding.identity, self.sight.used) if function else ""
            if reason:
                self._log.warning(f"{device} is not the device that was held for {holding.resource}, dropped: {reason}")
                del self.held[device]
                self._forget(holding)

    def _place_unknown(self) -> None:
        """Holds devices with damaged files, in their current state and for their current resources."""
        unknown = [device for device, holding in self.held.items() if not holding.resource]
        for device in unknown:
            del self.held[device]
            pool, function = self.assignment.pool_of.get(device), self.sight.inventory.get(device)
            if pool is None or function is None:
                continue  # it is not offered
            self.held[device] = holding = self._as_it_is(pool, function)
            self._due.add(cdi.file_name(pool.name))
            try:
                self._journal.mend(holding)
            except CniError as error:
                self._log.error(f"the damaged journal of {device} could not be mended: {error}")
        if unknown:
            self._recount()

    def _forget(self, holding: Holding) -> None:
        self._due.add(cdi.file_name(holding.resource))
        try:
            self.host.remove_info(container.info_file(holding.resource, holding.device))
            self._journal.remove(holding.device)
        except CniError as error:
            self._log.error(f"the files of {holding.device}, which is not held any more, could not be removed: {error}")

    def _recount(self) -> None:
        """Updates the count after changes."""
        if self._count is None:
            self._count_all()
            return
        held = holders(self.held)
        self._offer(recounted(self._count, self.sight, held, self._doubts_of(held)))

    def _count_all(self) -> None:
        held = holders(self.held)
        self._offer(counted(self.sight, self._selection, held, self._doubts_of(held)))

    def _doubts_of(self, held: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        self._doubts = {device: why for device, why in self._doubts.items() if device in held}
        return {**self._doubts}

    def _offer(self, count: Count) -> None:
        before, self._count = self._offers, count
        self._tell_health(before)
        self._tell_claims()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _tell_health(self, before: Mapping[str, tuple[Offer, ...]]) -> None:
        for resource, some in self._offers.items():
            former = before.get(resource, ())
            if some is former:
                continue
            known = {offer.device: offer.ailments for offer in former}
            for offer in some:
                if offer.ailments != known.get(offer.device, ()):
                    state = f"unhealthy: {'; '.join(offer.ailments)}" if offer.ailments else "healthy again"
                    self._log.info(f"{offer.device} ({resource}) is {state}")

    def _tell_claims(self) -> None:
        """Logs one message for each set of devices: two pools can select hundreds of them."""
        claims = self.assignment.contested()
        for (resource, other), devices in claims.items():
            if self._claims.get((resource, other)) != devices:
                self._log.warning(f"{other} selects as well what {resource} has: {', '.join(devices)}")
        self._claims = claims

    # Allocation and release

    async def allocate(self, resource: str, devices: Sequence[str]) -> Contents:
        """Allocates the devices to a container, all or none of them. Raises `CniError`."""
        request = " ".join(sorted(devices))
        async with self._changing:
            await self.look({*devices})
            pool, chosen = self._judged(resource, devices)
            await self._refuse_used(pool, devices)
            # Not for a refusal: a device that is requested again and again would never be reclaimed.
            self.grants.update({name: self.grants.get(name, 0) + 1 for name in devices})
            taken: list[str] = []
            promised: dict[str, Function] = {}
            try:
                for device in chosen:
                    lead = device.function.address
                    for function in (device.function, *self._companions(pool, device.function, devices)):
                        if function.address not in self.held:
                            taken.append(function.address)
                        given = device.replace(function=function)
                        await self._promise(pool, given, request, lead if function.address != lead else "")
                        promised[function.address] = function
                if pool.driver:
                    await for_each(promised.values(), self._bind_promised)
                for device in chosen:
                    name = container.info_file(pool.name, device.function.address)
                    await asyncio.to_thread(self.host.write_info, name, container.info_document(device))
                if pool.driver:
                    await self.look({*devices})
                else:
                    self._recount()
                await self._publish(cdi.file_name(resource))
                return self._contents(pool, chosen)
            except BaseException as error:
                for address in reversed(taken):
                    await self._undo(address, error)
                raise

    def _contents(self, pool: Pool, chosen: Sequence[Given]) -> Contents:
        present = [
            device.replace(function=self._function(pool.name, name))
            for device in chosen
            for name in (device.function.address, *self.assignment.parts(device.function.address))
        ]
        contents = container.contents(pool, tuple(present), self.sight.nodes)
        if not pool.cdi:
            return contents
        named = self._cdi_nodes([device.function.address for device in chosen])
        return contents.replace(nodes=(), cdi=tuple(cdi.qualified(pool.name, device) for device in named))

    async def prepare(self, resource: str, devices: Sequence[str]) -> None:
        """Prepares the devices for a container that starts or restarts. Raises `CniError`."""
        async with self._changing:
            await self.look({*devices})
            for name in devices:
                self._function(resource, name)
            together = {one.address: one for name in devices for one in self._together(name)}
            await for_each(together.values(), self._make_ready)
            await self.look({*devices})
            for name in devices:
                function = self._function(resource, name)
                # Without a link of the PF, its devices are unhealthy for new requests, but this container may start.
                pool = self.assignment.pool_of[name].replace(needs_link=False)
                if name in self.held:
                    pool = pool.replace(driver=self.held[name].driver)
                found = ailments(function, pool, self.sight.inventory, {name: resource}, self.sight.nodes)
                if found:
                    raise DeviceBusy(f"{name} is not ready: {'; '.join(found)}", hint="see barewire-node explain")
            await self._publish(cdi.file_name(resource))

    async def adopt(self, resource: str, device: str) -> None:
        """Writes a journal entry for a device that a container has according to the kubelet.

        Raises `DeviceNotFound` if the host has no such device any more, and `IoFailure`.
        """
        async with self._changing:
            function = self.sight.inventory.get(device)
            pool = self.assignment.pools.get(resource)
            if device in self.held:
                return
            if function is None or pool is None:
                raise DeviceNotFound(f"the host has no PCI device {device}", hint="its PF may have other VFs now")
            await self._note(self._as_it_is(pool, function))
            self._due.add(cdi.file_name(resource))
            self._recount()

    async def resume(self, device: str) -> None:
        """Binds the promised driver of a held device, if a killed process did not bind it. Raises `CniError`."""
        async with self._changing:
            holding, function = self.held.get(device), self.sight.inventory.get(device)
            if holding and function and holding.driver and function.driver != holding.driver:
                await self._bind_promised(function)
                await self.look({device})

    def signs_of_use(self, devices: Iterable[str]) -> dict[str, list[str]]:
        """Signs that containers have devices, regardless of the journal and the kubelet. This method blocks.

        One scan of all processes serves for all devices. If a sign cannot be checked, that counts as a sign.
        """
        functions = [function for device in devices if (function := self.sight.inventory.get(device))]
        unseen = ""
        opened: AbstractSet[str] = frozenset()
        try:
            opened = self.host.opened(one.address for one in functions if gives_to_user_space(one.driver))
        except CniError as error:
            unseen = f"{_UNSEEN}: {error}"
        return {device: self._signs(device, opened, unseen) for device in devices}

    def _signs(self, device: str, opened: AbstractSet[str], unseen: str) -> list[str]:
        function, signs = self.sight.inventory.get(device), []
        if device in opened:
            signs.append(_OPEN)
        if unseen and function is not None and gives_to_user_space(function.driver):
            signs.append(unseen)
        try:
            if self.host.has_record(device):
                signs.append("a CNI plugin has a record of it")
            if function is not None and self.host.netdev_is_away(function.address):
                signs.append("its network device is in a pod")
        except CniError as error:
            signs.append(f"it cannot be seen whether a pod has it: {error}")
        return signs

    def doubt(self, device: str, grant: int, why: Sequence[str]) -> None:
        """Sets the reasons why a held device may be in use although no pod has it. Such a device is not allocated.

        Without reasons, it can be allocated again. Nothing changes if the device's number of grants is not `grant`.
        """
        told = tuple(f"no pod has it any more, and {reason}" for reason in self._its_own(device, why))
        if self.grants.get(device, 0) == grant and self._doubts.get(device, ()) != told:
            self._doubts[device] = told
            self._recount()

    async def release(self, device: str, grant: int) -> bool:
        """Restores the original state of the device, and offers it again, if its number of grants is still `grant`.

        Returns whether it was released. Raises `CniError`; the device is still held, unless only the last scan failed.
        """
        async with self._changing:
            await self.look({device})
            if device not in self.held or self.grants.get(device, 0) != grant:
                return False
            name = cdi.file_name(self.held[device].resource)
            await self._give_back(device)
            with contextlib.suppress(CniError):
                await self._publish(name)  # if it fails, the file stays due
            await self.look({device})
            return True

    async def publish_all(self) -> None:
        """Writes the CDI files of held devices, and removes those of a killed process.

        Raises `CniError`; the remaining files are due then.
        """
        self._files_unknown = True
        self._due.update(map(cdi.file_name, {holding.resource for holding in self.held.values()}))
        await self.publish_due()

    @property
    def is_changing(self) -> bool:
        """Whether an allocation or a release is running, or another change of the held devices."""
        return self._changing.locked()

    @property
    def is_due(self) -> bool:
        """Whether files are due for `publish_due`."""
        return bool(self._due) or self._files_unknown

    async def publish_due(self) -> None:
        """Writes and removes all CDI files that are due.

        Raises `CniError` if some of them fail; these stay due.
        """
        if not self.is_due:
            return
        async with self._changing:
            failures = []
            for name in sorted(self._due):
                try:
                    await self._publish(name)
                except CniError as error:
                    failures.append(error)
            if self._files_unknown:
                await self._remove_unknown()
            if failures:
                raise failures[0]

    async def _remove_unknown(self) -> None:
        await asyncio.to_thread(self.host.sweep_cdi)
        held = {holding.resource for holding in self.held.values()}
        for name in {*await asyncio.to_thread(self.host.cdi_files)}.difference(map(cdi.file_name, held)):
            await asyncio.to_thread(self.host.remove_cdi, name)
        self._files_unknown = False

    async def _publish(self, name: str) -> None:
        """Writes or removes a CDI file. Raises `CniError`; it is due then."""
        # First: a change from here on makes the file due again.
        self._due.discard(name)
        try:
            resources = {holding.resource for holding in self.held.values()}
            resource = next((one for one in resources if cdi.file_name(one) == name), "")
            if nodes := self._cdi_nodes(self._named(resource)):
                await asyncio.to_thread(self.host.write_cdi, name, cdi.document(resource, nodes))
            else:
                await asyncio.to_thread(self.host.remove_cdi, name)
        except BaseException:
            self._due.add(name)
            raise

    def _named(self, resource: str) -> list[str]:
        """The held devices of a resource whose containers may have got CDI names."""
        pool = self.assignment.pools.get(resource)
        wanted = pool is not None and pool.cdi
        mine = [device for device, holder in holders(self.held).items() if holder == resource]
        # Also of a pool without CDI, or a removed pool: containers with CDI names keep them when they restart.
        return [device for device in mine if wanted or self.held[device].cdi]

    def _cdi_nodes(self, devices: Sequence[str]) -> dict[str, tuple[Node, ...]]:
        """The device nodes of each device that has some. In CDI, a device needs an edit, and a file needs a device."""
        found = {name: container.device_nodes(self._given(name), self.sight.nodes) for name in devices}
        return {name: nodes for name, nodes in found.items() if nodes}

    def _given(self, device: str) -> list[Given]:
        """A held device and its parts, with the properties of the allocation, not the current ones."""
        names = (device, *self.assignment.parts(device))
        functions = [function for name in names if (function := self.sight.inventory.get(name))]
        return [Given(function=one, selector=_selector(self.held[device])) for one in functions]

    def _judged(self, resource: str, devices: Sequence[str]) -> tuple[Pool, tuple[Given, ...]]:
        """The pool and the devices. Raises `CniError` if one cannot be allocated."""
        pool = self.assignment.pools.get(resource)
        if pool is None:
            raise DeviceNotFound(f"no pool has the resource {resource}", hint="the configuration has changed")
        problems, chosen = [], []
        held = holders(self.held)
        for name in devices:
            function = self._function(resource, name)
            if lead := self.assignment.leads.get(name):
                found = [f"it is no device of its own, it comes with {lead}"]
            elif name in held:
                found = [*self._doubts.get(name, ()), *self._apart(function, pool, devices)]
            else:
                others = {device: resource for device, resource in held.items() if device not in devices}
                found = ailments(
                    function,
                    pool,
                    self.sight.inventory,
                    others,
                    self.sight.nodes,
                    self.assignment.pools,
                    used=self.sight.used,
                )
            if found:
                problems.append(f"{name}: {'; '.join(found)}")
            # A held device may not match any selector any more, because its pod changed it.
            selector = pool.selector_of(function) or _selector(self.held.get(name))
            chosen.append(Given(function=function, selector=selector))
        if problems:
            raise DeviceBusy("; ".join(problems), hint="see barewire-node explain")
        return pool, tuple(chosen)

    async def _refuse_used(self, pool: Pool, devices: Sequence[str]) -> None:
        """Raises `DeviceBusy` if a device is in use, by a pod of another plugin or by a former pod."""
        inventory = self.sight.inventory
        together = [
            name
            for device in devices
            for name in (
                device,
                *self.assignment.parts(device),
                *(one.address for one in group.companions(inventory.functions[device], pool, inventory, devices)),
            )
        ]
        signs = await asyncio.to_thread(self.signs_of_use, [*dict.fromkeys(together)])
        own = {name: self._its_own(name, some) for name, some in signs.items()}
        for name in own.keys() & self.held.keys():
            # Its pod is ending, or has it for another container. In the second case the device is not open: the kubelet
            # allocates for all containers of a pod before it starts one.
            own[name] = [sign for sign in own[name] if sign.startswith((_OPEN, _UNSEEN))]
        problems = [f"{name}: {'; '.join(some)}" for name, some in own.items() if some]
        if problems:
            raise DeviceBusy(
                "; ".join(problems), hint="a pod of another device plugin may have it, or one that has ended"
            )

    def _its_own(self, device: str, signs: Sequence[str]) -> list[str]:
        """The signs without that of an open group, if another container may have opened it for another member.

        VFIO has one device node for a group, and a pool can share groups.
        """
        function, pool = self.sight.inventory.get(device), self.assignment.pool_of.get(device)
        shared = function and pool and pool.groups not in ALONE and self._mates(function, [device])
        return [sign for sign in signs if not (shared and sign == _OPEN)]

    def _mates(self, function: Function, devices: Sequence[str]) -> dict[str, str]:
        """The members of its IOMMU group that another request may hold: the resource by address."""
        own = self.held.get(function.address)
        mates = {member.address for member in self.sight.inventory.group_of(function)}
        return {
            device: holding.resource
            for device, holding in self.held.items()
            if device in mates and device not in devices and not holding.lead and not (own and holding.asked_with(own))
        }

    def _apart(self, function: Function, pool: Pool, devices: Sequence[str]) -> list[str]:
        """The members of a held device's IOMMU group that another container may have."""
        mates = self._mates(function, devices)
        return group.conflicts(function, pool, self.sight.inventory, mates, self.assignment.pools)

    def _companions(self, pool: Pool, function: Function, devices: Sequence[str]) -> list[Function]:
        """The members of its IOMMU group that must be bound with it, or were bound at an earlier allocation."""
        inventory = self.sight.inventory
        bound = [self.held[name].device for name in self._bound_with(function.address) if name not in devices]
        again = [found for name in bound if (found := inventory.get(name))]
        return [*again, *group.companions(function, pool, inventory, [*devices, *self.held])]

    def _bound_with(self, lead: str) -> list[str]:
        return [device for device, holding in self.held.items() if holding.lead == lead]

    def _together(self, device: str) -> list[Function]:
        """The device, and the members of its IOMMU group that are allocated or bound together with it."""
        names = dict.fromkeys((device, *self._bound_with(device), *self.assignment.parts(device)))
        return [found for name in names if (found := self.sight.inventory.get(name))]

    def _function(self, resource: str, device: str) -> Function:
        function = self.sight.inventory.get(device)
        pool = self.assignment.pool_of.get(device)
        if function is None:
            raise DeviceNotFound(f"the host has no PCI device {device}", hint="its PF may have other VFs now")
        if pool is None or pool.name != resource:
            reason = f"it is one of {pool.name}" if pool else self.assignment.kept_out.get(device, "")
            raise DeviceNotFound(f"{device} is no device of {resource}: {reason}", hint="the configuration has changed")
        return function

    async def _promise(self, pool: Pool, given: Given, request: str, lead: str) -> None:
        function = given.function
        known = self.held.get(function.address)
        noted = self._holding(pool, given).replace(request=request, lead=lead)
        if known and known.cdi:
            noted = noted.replace(cdi=True)
        if known and known.driver:
            noted = noted.replace(found_driver=known.found_driver, found_override=known.found_override)
        if noted != known:
            await self._note(noted)

    @staticmethod
    def _holding(pool: Pool, given: Given) -> Holding:
        function = given.function
        return Holding(
            device=function.address,
            resource=pool.name,
            driver=pool.driver,
            found_driver=function.driver,
            found_override=function.override,
            identity=function.identity,
            rdma=given.selector.rdma,
            vhost_net=given.selector.vhost_net,
            cdi=pool.cdi,
        )

    def _as_it_is(self, pool: Pool, function: Function) -> Holding:
        """The holding of a device that a pod has. If its driver is not the pool's, another program allocated it."""
        given = Given(function=function, selector=pool.selector_of(function) or Selector())
        return self._holding(pool, given).replace(driver=pool.driver if function.driver == pool.driver else "")

    async def _note(self, holding: Holding) -> None:
        await asyncio.to_thread(self._journal.write, holding)
        self.held[holding.device] = holding

    async def _undo(self, address: str, error: BaseException) -> None:
        """Reverts a failed allocation of a function. If that fails, it stays held, and the release is repeated."""
        if address not in self.held:
            return
        try:
            await self._give_back(address)
        except CniError as failure:
            error.add_note(f"clean-up incomplete: {failure}")
            self._log.error(f"{address} could not be taken back after a failed allocation: {failure}")

    async def _give_back(self, device: str) -> None:
        companions = self._bound_with(device)
        own = {device, *companions}
        # A part that another container has is reset at its own release.
        together = [one for one in self._together(device) if one.address in own or one.address not in self.held]
        await for_each(together, self._restore)
        # The device last: while it is held itself, the release of its companions is repeated after a failure.
        for name in (*companions, device):
            holding = self.held[name]
            await asyncio.to_thread(self.host.remove_info, container.info_file(holding.resource, name))
            await asyncio.to_thread(self._journal.remove, name)
            self.held.pop(name, None)
            self._due.add(cdi.file_name(holding.resource))

    async def _restore(self, function: Function) -> None:
        await self._reset_idle(function)
        holding = self.held.get(function.address)
        if holding and holding.driver:
            await self._bind(function, holding.found_driver, holding.found_override)

    async def _make_ready(self, function: Function) -> None:
        await self._bind_promised(function)
        await self._reset_idle(function)

    async def _bind_promised(self, function: Function) -> None:
        holding = self.held.get(function.address)
        if holding and holding.driver and function.driver != holding.driver:
            await self._bind(function, holding.driver, holding.driver)

    async def _bind(self, function: Function, driver: str, override: str) -> None:
        self._refuse_forbidden(function)
        if await asyncio.to_thread(self.host.netdev_is_away, function.address):
            raise DeviceBusy(f"{function.address} keeps its driver: its network device is in a pod")
        await asyncio.to_thread(self.host.bind, function.address, driver, override)

    async def _reset_idle(self, function: Function) -> None:
        if await asyncio.to_thread(self.host.may_reset, function.address):
            self._refuse_forbidden(function)
            await asyncio.to_thread(self.host.reset, function.address)

    def _refuse_forbidden(self, function: Function) -> None:
        # A device of the same model that the host uses may have the address now.
        if reason := forbidden(function, self.sight.used):
            raise DeviceBusy(f"{function.address} is left as it is: {reason}", hint="see barewire-node explain")


def _selector(holding: Holding | None) -> Selector:
    """The properties of the allocation that decide on the device nodes."""
    return Selector(rdma=holding.rdma, vhost_net=holding.vhost_net) if holding else Selector()
