import pytest
from tests.test_docs import *
from tests import test_docs
for name in [n for n in globals() if n.startswith("test_") and n!="test_docs"]: pass
@pytest.fixture(scope="module")
def example_run(toy_run): return toy_run.folder
