#!/usr/bin/env bash
# undeploy.sh OVERLAY: removes what deploy.sh has applied. What cannot be made again (volumes, secrets, the namespace) goes
# only after a question; YES=1 answers it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/composition.sh"

compose "${1:-}"
if ! kubectl get namespace "$namespace" > /dev/null 2>&1; then
  echo "Nothing to remove: there is no namespace $namespace."
  exit 0
fi

awk 'BEGIN {RS = ORS = "---\n"} !/(^|\n)kind: Namespace/' "$manifests" > "$scratch/workloads.yaml"
kubectl delete --filename "$scratch/workloads.yaml" --ignore-not-found --timeout 120s | awk '{print "  " $0}'
# Of earlier versions of the settings.
kubectl delete configmaps --namespace "$namespace" --selector app.kubernetes.io/part-of=offshelf > /dev/null
kubectl wait pods --namespace "$namespace" --selector app.kubernetes.io/part-of=offshelf --for delete --timeout 120s > /dev/null 2>&1 || true

left=$(kubectl get persistentvolumeclaims,secrets,leases --namespace "$namespace" --output name | grep -v 'secret/default-token-' || true)
echo "The workloads are gone. Left in the namespace $namespace:"
printf '%s\n' "${left:-nothing of Offshelf}" | awk '{print "  " $0}'
echo "A store outside of the namespace is not touched."
if [ "${YES:-}" != 1 ]; then
  if [ ! -t 0 ]; then
    echo "All of it stays. To remove it too: make undeploy OVERLAY=$1 YES=1"
    exit 0
  fi
  printf 'Remove the namespace %s with all that is in it, for good? [y/N] ' "$namespace"
  read -r answer
  case "$answer" in y | Y | yes) ;; *) echo "All of it stays."; exit 0 ;; esac
fi
# By name first: what may not stay goes even if the namespace itself hangs on something else.
[ -z "$left" ] || kubectl delete --namespace "$namespace" --ignore-not-found --timeout 120s $left | awk '{print "  " $0}'
if ! kubectl delete namespace "$namespace" --ignore-not-found --timeout 60s; then
  echo "The namespace $namespace is still going; kubectl get namespace $namespace --output yaml says what it waits for."
fi
