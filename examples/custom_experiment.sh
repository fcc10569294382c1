#!/usr/bin/env bash
# An experiment of one's own: copy this file, change the knobs, run it in the project's folder.
#
#   ./examples/custom_experiment.sh                                  what stands below
#   BATCHES=1 DTYPES="float16 int8" CALIBRATION=photos ./examples/custom_experiment.sh
#   sudo docker run -e BATCHES=1 --runtime=nvidia --ipc=host -v $(pwd):/app \
#     edge-vision-benchmark ./examples/custom_experiment.sh
#
# Started again it goes on with what is missing: a run that is complete is left as it is.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# --- knobs: each can be set in the environment -------------------------------------------------
NETWORKS="${NETWORKS:-resnet18:3x224x224 mobilenet_v2:3x224x224}" # name:CxHxW, or x.onnx:CxHxW
BATCHES="${BATCHES:-1 8}"
DTYPES="${DTYPES:-auto}"              # auto, float32, tf32, float16, bfloat16, int8, fp8
CALIBRATION="${CALIBRATION:-}"        # a folder of images, for int8 and fp8
RUNS="${RUNS:-2000}"                  # profiled inferences of each network
CLEAN_SECONDS="${CLEAN_SECONDS:-30}"  # without a profiler: latency and energy come from these
IDLE_DURATION="${IDLE_DURATION:-60}"  # seconds of the idle baseline before all runs
RESULT_DIR="${RESULT_DIR:-raw_data}"
WEIGHTS="${WEIGHTS:-pretrained}"
BACKEND="${BACKEND:-auto}"
SENSOR="${SENSOR:-auto}"
# -----------------------------------------------------------------------------------------------

python="${EDGEJOULE_PYTHON:-python3}" # the container sets it
[[ -n "${EDGEJOULE_PYTHON:-}" || ! -x .venv/bin/python ]] || python=.venv/bin/python

if [[ " ${DTYPES} " =~ \ (int8|fp8)\  && -z "${CALIBRATION}" ]]; then
  printf 'error: int8 and fp8 need CALIBRATION, a folder of images the network is meant for\n' >&2
  exit 2
fi

# Only the push below gets the token; what runs a model does not.
token="${DAGSHUB_USER_TOKEN:-}"
unset DAGSHUB_USER_TOKEN

# Says what is done and does it. Ctrl-C and SIGTERM (130) end the script, other failures do not:
# they are told at the end, when everything else has been tried.
failed=()
step() {
  local what="$1" status=0
  shift
  printf '\n--- %s\n' "${what}"
  "$@" || status=$?
  if ((status == 130)); then
    printf 'interrupted; the same command goes on with what is missing\n' >&2
    exit 130
  fi
  ((status == 0)) || failed+=("${what} (exit ${status})")
}

if [[ "${SENSOR}" != none ]]; then
  step "idle baseline" "${python}" measure_idling_power.py \
    --idle-duration "${IDLE_DURATION}" --sensor "${SENSOR}" --result-dir "${RESULT_DIR}"
fi

for network in ${NETWORKS}; do
  for batch in ${BATCHES}; do
    for dtype in ${DTYPES}; do
      options=(--dtype "${dtype}" --runs "${RUNS}" --clean-seconds "${CLEAN_SECONDS}")
      options+=(--weights "${WEIGHTS}" --backend "${BACKEND}" --sensor "${SENSOR}")
      if [[ "${dtype}" == int8 || "${dtype}" == fp8 ]]; then
        options+=(--calibration "${CALIBRATION}")
      fi
      shape="${network##*:}"
      # shellcheck disable=SC2086 # one number per word
      step "${network%:*}, batch ${batch}, ${dtype}" "${python}" measure_inference_power.py \
        --model "${network%:*}" --input-shape "${batch}" ${shape//x/ } \
        "${options[@]}" --result-dir "${RESULT_DIR}"
    done
  done
done

if [[ -n "${token}" ]]; then
  DAGSHUB_USER_TOKEN="${token}" step "push" "${python}" data_version.py push \
    --dataset "${RESULT_DIR}" --commit "custom experiment: ${NETWORKS}" --create
else
  printf '\nNo DAGSHUB_USER_TOKEN: the runs stay in %s\n' "${RESULT_DIR}"
fi
step "report" "${python}" report.py "${RESULT_DIR}"

if ((${#failed[@]})); then
  printf '\nfailed:\n' >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
