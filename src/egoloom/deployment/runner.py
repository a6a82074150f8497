"""Writes ``run.py`` of an artefact: a plain runner that needs neither EgoLoom nor PyTorch."""

from importlib import resources

from egoloom.deployment.card import Card

_IMPORTS = {
    "onnx": ("onnxruntime", "import onnxruntime"),
    "openvino": ("openvino", "import openvino"),
    "executorch": ("executorch and torch", "import torch\nfrom executorch.runtime import Runtime"),
    "litert": ("ai-edge-litert", "from ai_edge_litert.interpreter import Interpreter"),
    "torch": ("egoloom", "from egoloom.deployment import load_student"),
}
_LOADS = {
    "onnx": '''SESSION = onnxruntime.InferenceSession(str(HERE / "{file}"), providers=["CPUExecutionProvider"])


def run(clip):
    """Log-probabilities of each head for frames [1, T, 3, H, W]."""
    return dict(zip([output.name for output in SESSION.get_outputs()], SESSION.run(None, {{"rgb": clip}})))''',
    "openvino": '''OPTIONS = {{"INFERENCE_PRECISION_HINT": "f32"}} if CARD["precision"] == "fp32" else {{}}
MODEL = openvino.Core().compile_model(str(HERE / "{file}"), "CPU", OPTIONS)


def run(clip):
    """Log-probabilities of each head for frames [1, T, 3, H, W]."""
    return {{output.get_any_name(): value for output, value in MODEL([clip]).items()}}''',
    "executorch": '''METHOD = Runtime.get().load_program(str(HERE / "{file}")).load_method("forward")


def run(clip):
    """Log-probabilities of each head for frames [1, T, 3, H, W]."""
    values = METHOD.execute([torch.from_numpy(np.ascontiguousarray(clip))])
    return dict(zip(CARD["class_names"], [value.numpy() for value in values]))''',
    "litert": '''MODEL = Interpreter(str(HERE / "{file}")).get_signature_runner()


def run(clip):
    """Log-probabilities of each head for frames [1, T, 3, H, W]."""
    values = MODEL(args_0=np.ascontiguousarray(clip))
    return {{head: values[f"output_{{index}}"] for index, head in enumerate(CARD["class_names"])}}''',
    "torch": '''STUDENT = load_student(HERE)


def run(clip):
    """Log-probabilities of each head for frames [1, T, 3, H, W]."""
    return STUDENT.log_probs(clip)''',
}


def runner_source(card: Card) -> str:
    """Returns the text of ``run.py`` for an artefact."""
    text = resources.files("egoloom.deployment").joinpath("assets", "runner.py.txt").read_text(encoding="utf-8")
    runtime, imports = _IMPORTS[card.target]
    load = _LOADS[card.target].format(file=card.files["clip"])
    return text.replace("@RUNTIME@", runtime).replace("@IMPORT@", imports).replace("@LOAD@", load)
