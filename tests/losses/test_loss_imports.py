import subprocess
import sys

HEAVY = ["lightning", "transformers", "trl", "rdkit", "pandas", "pyarrow", "pydantic", "scipy"]


def test_the_loss_core_loads_torch_and_nothing_else_that_is_heavy():
    code = (
        "import sys, chemkl.losses, chemkl.losses.exact; "
        f"print([name for name in {HEAVY} if name in sys.modules], 'torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == "[] True"
