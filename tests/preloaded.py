"""What every rank of a test needs, imported once in the process that they are forked from."""

import torch

import elsa.methods
import tests.conftest
import tests.method.test_contract

torch.set_num_threads(1)
IMPORTED = (elsa.methods, tests.conftest, tests.method.test_contract)
