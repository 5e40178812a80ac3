import pytest
from flwr.serverapp import strategy as flower

from fl_audit.core.errors import ConfigError
from fl_audit.federation import create_strategy, strategy_names, strategy_summary


class Mine(flower.FedAvg):
    def __init__(
        self, *, gain: float = 1.0, eager: bool = False, note: "str | None" = None, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.gain, self.eager, self.note = gain, eager, note


class Old:
    pass


def broken(**_: object) -> None:
    raise AssertionError


@pytest.mark.parametrize("name", strategy_names())
def test_every_name_builds_and_is_described(name: str) -> None:
    strategy = create_strategy(name, clients=7, fraction=0.5, learning_rate=0.1)
    assert isinstance(strategy, flower.FedAvg)
    assert (strategy.fraction_train, strategy.min_train_nodes, strategy.min_available_nodes) == (0.5, 1, 7)
    assert strategy_summary(name)


def test_parameters_are_given_their_types() -> None:
    prox = create_strategy("fedprox:0.25")
    assert isinstance(prox, flower.FedProx)
    assert prox.proximal_mu == 0.25
    multi = create_strategy("multi-krum:num_malicious_nodes=1,num-nodes-to-select=3")
    assert isinstance(multi, flower.MultiKrum)
    assert (multi.num_malicious_nodes, multi.num_nodes_to_select) == (1, 3)
    q = create_strategy("qfedavg:q=0.3", learning_rate=0.05)
    assert isinstance(q, flower.QFedAvg)
    assert (q.q, q.client_learning_rate) == (0.3, 0.05)
    given = create_strategy("fedavg:min_train_nodes=3,fraction_evaluate=0.5", clients=4)
    assert isinstance(given, flower.FedAvg)
    assert (given.min_train_nodes, given.fraction_evaluate) == (3, 0.5)


def test_a_class_of_ones_own() -> None:
    here = f"{__name__}:Mine"
    plain = create_strategy(here, clients=3)
    assert isinstance(plain, Mine)
    assert (plain.gain, plain.min_available_nodes) == (1.0, 3)
    set_ = create_strategy(f"{here}:gain=2,eager=true,note=hello", clients=3)
    assert isinstance(set_, Mine)
    assert (set_.gain, set_.eager, set_.note) == (2.0, True, "hello")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("fedavgg", "Did you mean 'fedavg'.*Valid: bulyan, fedadagrad"),
        ("fedprox:mu=1", "unknown parameter 'mu'.*Valid: .*proximal_mu"),
        ("fedprox:proximal_mu=much", "expected a number, got 'much'"),
        ("multi-krum:num_malicious_nodes=1.5", "expected a whole number"),
        (f"{__name__}:Mine:eager=maybe", "expected true or false"),
        ("fedtrimmedavg:beta=0.7", "beta"),
        ("qfedavg", "client_learning_rate required"),
        ("no_such_module:Thing", "no module"),
        (f"{__name__}:Nothing", "no attribute"),
        (f"{__name__}:Old", "start method"),
        ("fedavg:weighted_by_key=a,weighted_by_key=b", "given twice"),
    ],
)
def test_mistakes_are_named(spec: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        create_strategy(spec)
