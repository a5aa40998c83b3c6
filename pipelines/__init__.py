"""What is run: one thin module per DVC stage or job, `python -m pipelines.<stage>`.

The environment is settled here, once, before Ray, MLflow or git wrappers can be imported: no usage
statistics leave the machine, and the libraries' advice about themselves stays out of the stages' output.
A value that the user has set wins.
"""

import os

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # often enough for a stage of a few seconds to have a point
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "2",
    "MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray Train asks once a second for what a Ray without its dashboard does not answer, and says so each time
    "RAY_DEDUP_LOGS_SKIP_REGEX": "Failed to query Ray Train Controller actor state",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
