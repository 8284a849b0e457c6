"""Pictures of a flow and its data: where it is good, and where it is not.

They need Matplotlib, and `corner` the package of that name: the extra ``plot``. Neither is imported before a
picture is drawn. Each function returns a figure of Matplotlib: ``figure.savefig("picture.pdf")`` writes it as
PNG, SVG or PDF, and notebooks show it. Results and records of trainings draw themselves:
`varflow.Result.plot`, `varflow.TrainingRecord.plot`.
"""

from varflow.plots.calibration import calibration
from varflow.plots.corner import corner
from varflow.plots.curves import learning_curve
from varflow.plots.overview import overview
from varflow.plots.weights import weights
from varflow.plots.worst import worst

__all__ = ["calibration", "corner", "learning_curve", "overview", "weights", "worst"]
