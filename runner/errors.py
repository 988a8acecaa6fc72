"""What can go wrong, and whose turn it is.

RunnerError
  UserError           one line is enough: no traceback, exit code 2
    ConfigError       a YAML file or an override does not describe a run    (fix the file)
    DataError         data are missing or broken                            (fetch or repair them)
    SubmissionError   the cluster refused the job or cannot be reached      (read its reason)
    CheckpointError   a checkpoint is missing, torn or of another run       (put it back, or start anew)
      SaveError       a checkpoint could not be written; the older ones stand
  NonFiniteLossError  the loss of some rank became nan or inf; found on all ranks together
"""


class RunnerError(Exception):
    """Any error this package raises on purpose."""


class UserError(RunnerError):
    """Something the user can mend; the command line prints one line and exits with 2."""


class ConfigError(UserError):
    """A YAML file or an override does not describe a run."""


class DataError(UserError):
    """Data are missing or broken."""


class SubmissionError(UserError):
    """The cluster refused the job, or cannot be reached."""


class CheckpointError(UserError):
    """A checkpoint is missing, torn, or of another run."""


class SaveError(CheckpointError):
    """A checkpoint could not be written; on the ranks that failed, raised from what stopped them."""


class NonFiniteLossError(RunnerError):
    """The loss of some rank became nan or inf."""
