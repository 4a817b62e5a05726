"""The package's own errors. Each message is one sentence: what was expected, what came, what to do."""


class GuideGenError(ValueError):
    """Something the user can mend. The command line prints it on one line and exits with 1."""


class AnatomyError(GuideGenError):
    """An organ, site or class that the label table does not have."""


class CaseError(GuideGenError):
    """A CT, label map, affine or key that cannot make a case."""


class FindingsError(GuideGenError):
    """Findings that contradict each other or the anatomy."""


class ReportError(GuideGenError):
    """Report text or a report template that cannot be used."""


class ModelError(GuideGenError):
    """A model folder or weight file that cannot be used."""


class SourceError(GuideGenError):
    """Training data that cannot be read or does not fit together."""


class ShardError(GuideGenError):
    """A shard folder or its contents that cannot be used."""


class LabelMapError(GuideGenError):
    """Classes of ours that cannot become the labels asked for."""
