"""skorch's own tests of nets and classifiers, which ship in its wheel, with `PruneFuseNet` in the classifier's place.

The class is called as skorch's is, because messages that its tests compare spell it out. What cannot apply is named
with its reason, and expected to fail: should it ever pass, the entry has to go.
"""

# ruff: noqa: E402
from __future__ import annotations

import pytest
import torch
from hosts import need_host

need_host("skorch", at_least="1.4")
need_host("skorch", "flaky")  # of skorch's test requirements
from skorch.tests.conftest import classifier_data, classifier_module, multiouput_module, seeds_fixed  # noqa: F401
from skorch.tests.test_classifier import TestNeuralNet as _ClassifierTests
from skorch.tests.test_net import TestNeuralNet as _NetTests

from prunefuse_al.adapters.skorch import PruneFuseNet

pytestmark = [
    pytest.mark.touches_global_rng,  # skorch's fixtures seed it
    pytest.mark.filterwarnings("default"),  # theirs are for their own configuration to judge
]

THIN = "expects the widths of the whole network"
COPY = "expects a module instance to be trained itself; ours is copied, so that every fit starts from the same weights"
COUNT = "counts calls, and pruning calls the module, the dataset and the device some times more"
NOT_APPLICABLE = {
    "test_set_params_works": THIN,
    "test_module_params_in_init": THIN,
    "test_with_initialized_module_other_params": THIN,
    "test_with_initialized_module_partial_fit": THIN,
    "test_repr_initialized_works": THIN,
    "test_repr_fitted_works": THIN,
    "test_repr_uninitialized_works": "spells out the path of skorch's class",
    "test_with_initialized_module_non_default": COPY,
    "test_with_initialized_module_warm_start": COPY,
    "test_modules_reinit_when_both_initialized_but_custom_module_changed": COPY,
    "test_custom_module_is_init_when_default_module_already_is": COPY,
    "test_net_initialized_with_custom_dataset_args": COUNT,
    "test_fit_params_passed_to_module": COUNT,
    "test_fit_params_passed_to_module_in_pipeline": COUNT,
    "test_moving_custom_modules_to_device": COUNT,
    "test_optimizer_initialized_after_module_moved_to_device": COUNT,
    "test_data_dict_and_fit_params": "the module cannot predict: its forward demands what only fit passes",
    "test_net_variable_prediction_lengths": "outputs are no [rows, classes]",
    "test_net_variable_label_lengths": "outputs are no [rows, classes]",
    "test_load_cuda_params_to_cpu": "loads a file that is not in the wheel",
    "test_pickle_load": "loads a file that is not in the wheel",
}
CHANCE = {"test_fit_lbfgs_optimizer": "asks of a net under a random seed for an accuracy that a thinned one may miss"}
UNSEEN = ("test_save", "test_torch_load_kwargs", "test_custom_optimizer_performs_updates")
"""Tests that load, or compare, parameters of nets that have seen no data: these are told what an input looks like."""


class NeuralNetClassifier(PruneFuseNet):
    told = False

    def initialize_module(self):
        if self.told:
            self.example_inputs = torch.zeros(2, 20)
        return super().initialize_module()


class TestClassifier(_ClassifierTests):
    @pytest.fixture(scope="module")
    def net_cls(self):
        return NeuralNetClassifier


@pytest.mark.slow
class TestNet(_NetTests):
    @pytest.fixture(scope="module")
    def net_cls(self):
        return NeuralNetClassifier

    @pytest.fixture(autouse=True)
    def _told_what_an_input_looks_like(self, request, monkeypatch):
        name = request.node.originalname
        monkeypatch.setattr(NeuralNetClassifier, "told", name.startswith(UNSEEN) and not name.endswith("unpickle"))


for _name, _reason in (NOT_APPLICABLE | CHANCE).items():
    _expected = pytest.mark.xfail(reason=_reason, strict=_name in NOT_APPLICABLE)
    setattr(TestNet, _name, _expected(getattr(_NetTests, _name)))
