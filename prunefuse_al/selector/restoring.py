"""A selector out of its file: everything is checked, from the outside in, before anything is made of it.

What kind of file it is, and how large; whether its header is whole; whether its tensors are those of the network at
hand, by name, type and shape; only then are they read, and what the rest of the configuration says is held against the
network. Whatever is wrong with a file is a `CheckpointError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from ..costs import MAX_ROWS, CostLedger, from_columns
from ..errors import CheckpointError, InputError, PruneFuseError
from ..fusing import ChannelMap, epsilons, set_epsilons
from ..network import Form, afresh, check_model, check_state, copied, forms_of, load_state, named_tensors, under
from ..proxies import Another, AnyProxy, Dense, Kind, OtherNetwork, Probe
from ..pruning import LayerWidth, Proxy, PruningReport, rebuild
from .architecture import difference
from .checkpoint import SelectorFile, opened
from .encoding import decode
from .options import Options
from .saving import COSTS, ELSEWHERE, MAP, TARGET, WRITES, Beside
from .state import State, Trained, Uncut

T = TypeVar("T")
_DAMAGE = (PruneFuseError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError)
WHOLE = (Dense, Probe)
"""Kinds of proxies that a file names, whose proxies are as wide as the network."""
_IN_FILES = {field.name for field in dataclasses.fields(Options)} - ELSEWHERE - {"proxy"}
_SHAPE: dict[str, tuple[type, ...]] = {
    "options": (dict,),
    "missing": (list,),
    "entropy": (int,),
    "model": (str,),
    "round": (int,),
    "cut": (bool,),
    "epsilons": (dict,),
    "synced_epsilons": (dict, type(None)),
    "channel_map": (dict, type(None)),
    "report": (dict, type(None)),
    "costs": (dict, list),
}
"""What the configuration of every version holds."""
_REMEDY = "build the network that was saved, or pass accept_changes=True if it computes the same or is meant to differ"


@dataclass(frozen=True, eq=False)
class Saved:
    """A selector's parts as read from a file.

    Attributes:
        where: the call, for messages.
        options: of the constructor, as far as they are in the file and were not given.
        entropy: what its seeds derive from.
        state: where it was.
        ledger: its costs.
        said: what whoever loads it should know.
        beside: what an estimator keeps in the file; None in a selector's own.
    """

    where: str
    options: dict[str, Any]
    entropy: int
    state: State
    ledger: CostLedger
    said: tuple[str, ...]
    beside: Beside | None = None

    def constructed(self, make: Callable[..., T], given: Mapping[str, Any]) -> T:
        """Return what a constructor makes of the options, those `given` before those of the file.

        Raises:
            CheckpointError: it refuses the file's. Its own error, if it refuses those that were given.
        """
        try:
            return make(**{**self.options, **given})
        except _DAMAGE as error:
            if given and self._stands(make):
                raise
            raise CheckpointError(f"{self.where}: its options are not those of a selector: {error}") from error

    def state_of(self, kind: Kind) -> State:
        """Return the state with a proxy of its kind."""
        if not isinstance(self.state, Trained):
            return self.state
        proxy = kind.restored(self.state.proxy)
        return replace(self.state, start=proxy.with_module(self.state.start.module), proxy=proxy)

    def check_start(self, options: Options) -> None:
        """Raise `CheckpointError` where proxies start as wide as the network and nothing would thin them."""
        whole = isinstance(self.state, Trained) and self.state.start.module is self.state.dense
        if whole and options.progressive is None and not isinstance(options.proxy, WHOLE):
            raise CheckpointError(
                f"{self.where}: its proxies are thinned while they are trained, which takes the progressive= that it "
                "was saved with"
            )

    def _stands(self, make: Callable[..., Any]) -> bool:
        """Tell whether the file's own options are fit for a constructor."""
        try:
            make(**self.options)
        except _DAMAGE:
            return False
        return True


def check_names(kind: type, call: str, given: Mapping[str, Any]) -> None:
    """Raise `InputError` if options are given that a class does not take, with those it does."""
    parameters = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name != "model"]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}=? " if near else ""
        raise InputError(f"{call}({unknown[0]}=...): there is no such option; {hint}known: {', '.join(known)}")


def load_selector(
    path: str | os.PathLike[str], model: nn.Module, given: Mapping[str, Any], *, accept_changes: bool = False
) -> Saved:
    """Read a selector's file for a network of the same architecture; nothing is changed if any part does not fit."""
    other = _another(given.get("proxy"))
    check_model(model)
    file = opened(path)
    dense = copied(model)
    with _damage(file.where):
        config = file.config
        _check_shape(file)
        _check_given(file.where, config, given)
        if not accept_changes and config["model"] != type(model).__name__:
            found = f"the file is of a {config['model']}, the model is a {type(model).__name__}"
            raise CheckpointError(f"{file.where}: {found}; {_REMEDY}")
        _check_forms(file, model, other)
        if not accept_changes:
            _check_networks(file, model, other)
        tensors = file.tensors()
        return Saved(
            file.where,
            _options(config["options"], given),
            config["entropy"],
            _state(tensors, config, dense, other),
            _ledger(tensors, config["costs"]),
            tuple(_said(file, given)),
            _beside(tensors, config, model),
        )


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    """Say of whatever else is raised that the file is to blame."""
    try:
        yield
    except CheckpointError as error:
        if str(error).startswith(where):
            raise
        raise CheckpointError(f"{where}: {str(error).removeprefix('load(): ')}") from error
    except _DAMAGE as error:
        what = str(error) if isinstance(error, PruneFuseError) else repr(error)
        raise CheckpointError(f"{where}: the file does not describe a selector ({what:.500})") from error


def _check_shape(file: SelectorFile) -> None:
    """Raise unless the configuration holds what it must, each of its type."""
    config = file.config
    for name, kinds in _SHAPE.items():
        if name not in config or type(config[name]) not in kinds:
            found = f"{config[name]!r:.200}" if name in config else "nothing"
            raise CheckpointError(f"{file.where}: the file does not describe a selector ({name} is {found})")
    beside = config.get("beside", {"words": {}, "epsilons": None})
    if type(beside) is not dict or beside.keys() != {"words", "epsilons"} or type(beside["words"]) is not dict:
        raise CheckpointError(f"{file.where}: the file does not describe an estimator ({beside!r:.200})")
    for name in ("entropy", "round"):
        if config[name] < 0:
            raise CheckpointError(f"{file.where}: {name} is {config[name]}, and none is below 0")
    kind = {"proxy"} if _kind_in(config) in {each.__name__ for each in WHOLE} else set()
    unknown = sorted(config["options"].keys() - _IN_FILES - kind)
    unknown += [name for name in config["missing"] if name not in _IN_FILES | {"proxy"}]
    if unknown:
        raise CheckpointError(f"{file.where}: it has the option {unknown[0]!r:.200}, which no selector has")


def _kind_in(config: Mapping[str, Any]) -> Any:
    """Return the name of the class of the kind of proxy that is in a file; None where none is."""
    said = config["options"].get("proxy")
    return said.get("as") if isinstance(said, dict) else None


def _check_given(where: str, config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise unless what the file lacks was given, and another network only where it was made with one."""
    lacking = [name for name in config["missing"] if name not in given]
    if lacking:
        calls = ", ".join(f"{name}=..." for name in lacking)
        raise CheckpointError(f"{where}: JSON could not hold {' and '.join(lacking)}; pass {calls} to load()")
    proxy = given.get("proxy")
    if proxy is None or "proxy" in config["missing"] or _kind_in(config) == type(proxy).__name__:
        return
    if config["cut"]:
        raise CheckpointError(f"{where}: its proxy was cut from the model; leave out proxy=, which is another network")


def _check_networks(file: SelectorFile, model: nn.Module, other: nn.Module | None) -> None:
    """Raise unless the networks are those of the file beyond names and shapes, as far as it says."""
    if file.version == 1:
        return
    frozen, own = file.config.get("frozen"), {name for name, p in model.named_parameters() if not p.requires_grad}
    if frozen is not None and own != {*frozen}:
        thawed, held = sorted({*frozen} - own), sorted(own - {*frozen})
        what = f"{thawed[0]!r} was frozen and is not" if thawed else f"{held[0]!r} is frozen and was not"
        raise CheckpointError(
            f"{file.where}: of the network's parameters, {what} ({len(thawed) + len(held)} differ): set "
            "requires_grad_() as it was when it was saved, or pass accept_changes=True to go on with what there is"
        )
    found = difference(file.config["architecture"], model, "model")
    if not found and file.config["proxy_architecture"] is not None and other is not None:
        found = difference(file.config["proxy_architecture"], other, "proxy")
    if found:
        raise CheckpointError(f"{file.where}: {found}; {_REMEDY}")


def _check_forms(file: SelectorFile, model: nn.Module, other: nn.Module | None) -> None:
    """Raise unless all tensors are such as this model's selector has; none has been read yet."""
    own, name, config = forms_of(model.state_dict()), type(model).__name__, file.config
    check_state(under("dense/", file.forms), own, f"model ({name})")
    if config["synced_epsilons"] is not None:
        check_state(under("synced/", file.forms), own, f"target ({name})")
    if _has_target(config):
        check_state(under(TARGET + "/", file.forms), own, f"target ({name})")
    widest = own if other is None else forms_of(other.state_dict())
    sizes = {f"{name}:{dim}": n for name, t in named_tensors(model).items() for dim, n in enumerate(t.shape)}
    fits: dict[str, Callable[[str, Form], bool]] = {
        "dense": lambda rest, form: True,
        "synced": lambda rest, form: config["synced_epsilons"] is not None,
        TARGET: lambda rest, form: _has_target(config),
        "start": lambda rest, form: config["cut"] and rest in widest and _within(form, widest[rest]),
        "trained": lambda rest, form: config["cut"] and rest in widest and _within(form, widest[rest]),
        MAP: lambda rest, form: config["cut"] and _numel(form) <= 2 * sizes.get(rest.removesuffix(":copies"), -1),
        COSTS: lambda rest, form: _numel(form) <= 2 * MAX_ROWS,
    }
    for name, form in file.forms.items():
        prefix, _, rest = name.partition("/")
        if prefix not in fits or not fits[prefix](rest, form):
            raise CheckpointError(f"{file.where}: it holds {name!r}, {form}, for which the network has no place")


def _has_target(config: Mapping[str, Any]) -> bool:
    """Tell whether an estimator's target is in the file."""
    return "beside" in config and config["beside"]["epsilons"] is not None


def _beside(tensors: Mapping[str, Tensor], config: Mapping[str, Any], model: nn.Module) -> Beside | None:
    """Return what an estimator keeps in the file."""
    if "beside" not in config:
        return None
    target = None
    if _has_target(config):
        target = load_state(copied(model), tensors, TARGET + "/", "target")
        _put_epsilons(target, config["beside"]["epsilons"])
    return Beside(config["beside"]["words"], target)


def _numel(form: Form) -> int:
    return math.prod(form.shape)


def _within(form: Form, widest: Form) -> bool:
    """Tell whether a tensor is another one or a thinned one."""
    same = form.dtype == widest.dtype and len(form.shape) == len(widest.shape)
    return same and all(n <= most for n, most in zip(form.shape, widest.shape, strict=True))


def _state(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], dense: nn.Module, other: nn.Module | None
) -> State:
    """Return the state, made of `dense`, a copy of the user's network."""
    load_state(dense, tensors, "dense/", "model")
    _put_epsilons(dense, config["epsilons"])
    if not config["cut"]:
        return Uncut(dense, config["round"])
    channel_map, report = _map(tensors, config, dense), _report(config["report"])
    if (channel_map is None) != (report is None):
        raise CheckpointError("load(): the file has a channel map without a report, or a report without a map")
    if channel_map is None and other is None:
        raise CheckpointError("load(): the file was saved with proxy=; pass that network to load()")
    computed = {} if channel_map is None else channel_map.computed
    afresh(dense, computed)  # it may have been used with other weights
    shape = copied(other) if channel_map is None else rebuild(dense, channel_map)
    assert shape is not None
    start = dense  # a proxy that is thinned while it is trained starts as wide
    if under("start/", tensors) or channel_map is None:
        start = load_state(copied(shape), tensors, "start/", "proxy")
    trained = load_state(shape, tensors, "trained/", "proxy")
    proxy: AnyProxy = OtherNetwork(trained)
    if channel_map is not None:
        proxy = Proxy(trained, channel_map, report, repaired=_repaired(config, start))
    synced = None
    if config["synced_epsilons"] is not None:
        synced = afresh(load_state(copied(dense), tensors, "synced/", "target"), computed)
        _put_epsilons(synced, config["synced_epsilons"])
    return Trained(dense, proxy.with_module(start), proxy, config["round"], synced=synced)


def _options(written: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file that were not given; those that it was written before have the meaning they had."""
    found = {name: decode(value) for name, value in written.items() if name not in given and name not in WRITES}
    return found if "pretrained" in {*written, *given} else {**found, "pretrained": False}


def _repaired(config: Mapping[str, Any], start: nn.Module) -> dict[str, Tensor] | None:
    """Return the values that `repair` left, which the proxy's training began with; None where nothing was repaired."""
    names, own = config.get("repaired", []), named_tensors(start)
    if not isinstance(names, list) or not all(isinstance(name, str) and name in own for name in names):
        raise CheckpointError(f"load(): the file names repaired tensors that the proxy has not: {names!r:.200}")
    return {name: own[name].detach().clone() for name in names} or None


def _another(proxy: Any) -> nn.Module | None:
    """Return the network that was given to stand in, if one was."""
    if isinstance(proxy, Another):
        return proxy.network
    return None if proxy is None or hasattr(proxy, "put_back") else check_model(proxy, "proxy")


def _put_epsilons(model: nn.Module, values: Mapping[str, Any]) -> None:
    own = epsilons(model)
    for place, value in values.items():
        if place not in own or type(value) is not float or not 0 <= value < math.inf:
            raise CheckpointError(
                f"load(): the file sets {place!r} to {value!r:.200}; the network has {own.get(place)}"
            )
    set_epsilons(model, values)


def _map(tensors: Mapping[str, Tensor], config: Mapping[str, Any], dense: nn.Module) -> ChannelMap | None:
    if config["channel_map"] is None:
        return None
    found = ChannelMap.from_tensors({k: v.clone() for k, v in under(MAP + "/", tensors).items()}, config["channel_map"])
    modules = dict(dense.named_modules(remove_duplicate=False))
    for place, value in found.attributes.items():
        path, _, name = place.partition(":")
        own = vars(modules[path]).get(name) if path in modules else None
        if not _narrower(value, own):
            raise CheckpointError(f"load(): the file sets {place!r} to {value!r:.200}; the network has {own!r:.200}")
    for place, start in found.computed.items():
        path, _, name = place.partition(":")
        own = getattr(modules.get(path), name, None)
        if path not in modules or isinstance(own, nn.Module | nn.Parameter) or callable(own):
            raise CheckpointError(f"load(): the file sets {place!r} to {start!r:.200}; the network has {own!r:.200}")
    absent = [path for stream in found.streams for path, _ in stream.norms if path not in modules]
    if absent:
        raise CheckpointError(f"load(): the channel map names the module {absent[0]!r}, which the network has not")
    return found


def _narrower(value: Any, own: Any) -> bool:
    """Tell whether a width, or some of several, is one that thinning may have left of the network's own."""
    if isinstance(value, tuple | list) and isinstance(own, tuple | list):
        return len(value) == len(own) and all(v == o or _narrower(v, o) for v, o in zip(value, own, strict=True))
    return type(value) is int and type(own) is int and 1 <= value <= own


def _report(value: Any) -> PruningReport | None:
    report = decode(value)
    if report is None:
        return None
    known = isinstance(report, PruningReport) and _typed(report) and 0 <= report.pruning_ratio < 1
    known = known and type(report.widths) is tuple and type(report.kept_whole) is dict
    known = known and all(isinstance(width, LayerWidth) and _typed(width) for width in report.widths)
    said = (report.compared_at, report.remarks, report.not_executed) if known else ()
    known = known and all(type(of) is tuple and all(isinstance(text, str) for text in of) for of in said)
    if not known or not all(isinstance(reason, str) for reason in report.kept_whole.values()):
        raise CheckpointError(f"load(): the file's report is none that prune makes: {report!r:.200}")
    return report  # type: ignore[no-any-return]


def _typed(thing: Any) -> bool:
    """Tell whether the plain fields of a report hold what they say."""
    plain: dict[Any, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
    fields = [field for field in dataclasses.fields(thing) if field.type in plain]
    return all(type(getattr(thing, field.name)) in plain[field.type] for field in fields)


def _ledger(tensors: Mapping[str, Tensor], costs: Any) -> CostLedger:
    return CostLedger.from_dicts(costs) if isinstance(costs, list) else from_columns(under(COSTS + "/", tensors), costs)


def _said(file: SelectorFile, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what whoever loads a file should know."""
    config = file.config
    if file.version == 1:
        yield (
            f"{file.where}: written by an earlier version, whose digest covers the tensors and not the configuration, "
            "and which does not say what the network computes; save it again and it is all covered"
        )
    unsaved = config["unsaved"] if file.version > 1 else [n for n in WRITES if config["options"].get(n) is not None]
    for name in unsaved:
        if name in WRITES - given.keys():
            yield (
                f"{file.where}: the selector had a {name}=, and what is written to is not taken from a file: pass "
                f"{name}=... to load(), or None to have features in memory"
            )
