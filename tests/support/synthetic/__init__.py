"""Small random decoders, the graphs that exporters would write of them, and what they compute, in float64 numpy.

Independent of foldrank's graph code and of torch: onnx.helper writes the graphs, the oracle is a plain forward pass.
"""

from synthetic.bundles import sealed, write_bundle
from synthetic.decoders import ROLES, Decoder, Shape, random_decoder
from synthetic.genai import write_graph
from synthetic.plans import PlanMaker, nth
from synthetic.running import Graph, run_onnx, widened, worst
from synthetic.standard import write_standard

__all__ = ["ROLES", "Decoder", "Graph", "PlanMaker", "Shape", "nth", "random_decoder", "run_onnx", "sealed", "widened",
           "worst", "write_bundle", "write_graph", "write_standard"]
