"""What can go wrong, one class for each thing that a user would mend in a different place."""


class AquatintError(Exception):
    """Any fault that this package finds and explains."""


class CaptureError(AquatintError):
    """The model can't be turned into a program; names the line of the model that stands in the way."""


class CalibrationError(AquatintError):
    """The calibration callable did not use the model, or used it in a way that can't be replayed."""


class RecipeError(AquatintError):
    """A recipe, rule, pass or format that does not exist or does not fit the model."""


class VerifyError(AquatintError):
    """A program breaks one of its invariants: a fault of the pass that made it."""


class PassError(AquatintError):
    """A pass failed; names the pass and the site, and the program is as it was."""


class ArtifactError(AquatintError):
    """A file that is no artifact of this version; names the file and the fault."""


class InputError(AquatintError):
    """A call of a compressed module with inputs that its program was not captured for."""


class ExportError(AquatintError):
    """A program that can't be written as ONNX or as a plate; lists the nodes that stand in the way."""


class EditError(AquatintError):
    """An edit that does not fit what was recorded; the session is as it was before it."""


class DistillError(AquatintError):
    """A distillation that can't be begun, or was stopped: says at which step, and where the last good state is."""
