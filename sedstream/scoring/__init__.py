"""How right a diarization is: EDER and its parts, frame, segment and boundary F1, CCC, per speaker, beside
baselines."""

from .annotations import read
from .compare import compare, score
from .eder import Eder, eder
from .report import Report
from .sheet import Recording, Span
from .tracks import Track, pair

__all__ = ["Eder", "Recording", "Report", "Span", "Track", "compare", "eder", "pair", "read", "score"]
