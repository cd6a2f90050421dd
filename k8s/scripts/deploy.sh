#!/usr/bin/env bash
# deploy.sh OVERLAY: applies k8s/overlays/OVERLAY, waits until everything is available and says how to use it.
#
#   TIMEOUT    seconds to wait, 300 by default
#   FOLDER     where secrets.sh keeps certificates and users; offshelf-secrets by default
set -euo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
. "$scripts/composition.sh"

# Numbers of replicas that belong to the orchestrator's fleet or to an autoscaler must survive. kubectl resets a field to
# what is applied, and a field that was applied once and is no longer to its default, which is 1. So such a Deployment is
# applied with its number only when it is new; later without, and without a trace of it in what kubectl remembers.
keep_replicas() {
  local remembered='kubectl.kubernetes.io/last-applied-configuration' owned name last
  owned=$(documents Deployment | awk 'BEGIN {RS = "---\n"} /\n    offshelf.dev\/replicas: / && match($0, /\n  name: [^\n]+/) {print substr($0, RSTART + 9, RLENGTH - 9)}')
  existing=
  for name in $(kubectl get deployments --namespace "$namespace" --output 'jsonpath={.items[*].metadata.name}'); do
    case " $(echo $owned) " in *" $name "*) ;; *) continue ;; esac
    existing="$existing $name"
    last=$(kubectl get deployment "$name" --namespace "$namespace" \
      --output 'jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}')
    case "$last" in *'"replicas":'*)
      kubectl annotate deployment "$name" --namespace "$namespace" --overwrite \
        "$remembered=$(printf '%s' "$last" | sed 's/"replicas":[0-9]*,//')" > /dev/null ;;
    esac
  done
  awk -v existing="$existing" -f "$scripts/keep-replicas.awk" "$manifests" > "$scratch/kept.yaml"
}

# What is the matter with pods that are not ready, a line each: why there is no node for one, why a container waits, and the
# last line of one that ended, which for our services is {"ready": false, "error": "..."}.
explain() {
  kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/part-of=offshelf --output go-template='
    {{- range .items}}{{$pod := .metadata.name}}
      {{- range .status.conditions}}{{if and (eq .type "PodScheduled") (eq .status "False")}}
        {{- $pod}}: no node for it{{"\n"}}{{.message}}{{"\036"}}{{end}}{{end}}
      {{- range .status.containerStatuses}}{{if not .ready}}
        {{- with .state.waiting}}{{$pod}}: {{.reason}}{{"\n"}}{{or .message ""}}{{"\036"}}{{end}}
        {{- with or .state.terminated .lastState.terminated}}
          {{- $pod}}: ended with status {{.exitCode}}, {{.reason}}{{"\n"}}{{or .message ""}}{{"\036"}}{{end}}
      {{- end}}{{end}}
    {{- end}}' | awk '
      BEGIN {RS = "\036"; FS = "\n"}
      /: (ContainerCreating|CrashLoopBackOff)\n/ {next}
      {
        while (NF > 1 && $NF == "") NF--
        said = NF > 1 ? $NF : ""
        if (match(said, /"error": "([^"\\]|\\.)*"/)) said = substr(said, RSTART + 10, RLENGTH - 11)
        print $1 (said == "" ? "" : ": " said)
      }'
  local pod
  for pod in $(kubectl get pods --namespace "$namespace" --selector app.kubernetes.io/part-of=offshelf --output \
    'jsonpath={range .items[?(@.status.containerStatuses[0].state.waiting.reason=="ContainerCreating")]}{.metadata.name} {end}'); do
    kubectl get events --namespace "$namespace" --field-selector "involvedObject.name=$pod,type=Warning" --output \
      'jsonpath={range .items[*]}{.involvedObject.name}: {.message}{"\n"}{end}' | sort -u | tail -n 3
  done
}

# Whether the cluster has the authority in this file. If not, the folder is of another installation, and its token and names are
# of no use here.
ours() {
  [ -e "$1" ] && [ "$(cat "$1")" = "$(kubectl get secret offshelf-tls-orchestrator --namespace "$namespace" \
    --output 'go-template={{index .data "ca.crt" | base64decode}}' 2> /dev/null)" ]
}

# Where users reach the orchestrator, as far as the composition and the cluster say: a port of the nodes, or what the load
# balancer has got. A command to paste is shown where the certificate is known to have the server's name: the first that it was
# made for and that is no pattern, or without any a node. The token stays in its file: this is shown on screens and kept in logs.
tell_users() {
  local door host port named='' token=$folder/admin.token ca=$folder/certs/orchestrator/ca.crt command=offshelf
  door=$(documents Service | awk 'BEGIN {RS = "---\n"} /\n  name: orchestrator-door\n/')
  case "$door" in
    *'type: NodePort'*)
      port=$(printf '%s\n' "$door" | awk '$1 == "nodePort:" || $2 == "nodePort:" {print $NF; exit}')
      host=$(kubectl get nodes --output 'jsonpath={.items[0].status.addresses[0].address}' 2> /dev/null || true)
      named=$host ;;
    *'type: LoadBalancer'*)
      port=7000
      host=$(kubectl get service orchestrator-door --namespace "$namespace" \
        --output 'jsonpath={.status.loadBalancer.ingress[0].hostname}{.status.loadBalancer.ingress[0].ip}' 2> /dev/null || true) ;;
    *) return 0 ;;
  esac
  [ ! -e "$folder/hosts" ] || named=$(awk '/^[^*]/ {print; exit}' "$folder/hosts")
  command -v offshelf > /dev/null || [ ! -x .venv/bin/offshelf ] || command=.venv/bin/offshelf
  if [ -n "$named" ] && [ -e "$token" ] && ours "$ca"; then
    echo "To use it, as admin:"
    printf '  OFFSHELF_TOKEN_FILE=%q %s run FOLDER --server %s --ca %q\n' "$token" "$command" "$(address "$named" "$port")" "$ca"
  elif [ -n "$host" ]; then
    echo "Users reach it at $(address "$host" "$port"), by a name that its certificate has."
  fi
}

address() {
  case "$1" in *:*) echo "[$1]:$2" ;; *) echo "$1:$2" ;; esac
}

compose "${1:-}"
folder=${FOLDER:-offshelf-secrets}
if [ "$(kubectl get namespace "$namespace" --ignore-not-found --output 'jsonpath={.status.phase}')" = Terminating ]; then
  fail "The namespace $namespace is being deleted; kubectl get namespace $namespace --output yaml says what it waits for."
fi
missing=$(missing_secrets)
if [ -n "$missing" ]; then
  for name in $missing; do
    echo "The Secret $name is missing in the namespace $namespace. This makes what is missing: make secrets OVERLAY=$1" >&2
  done
  exit 2
fi

keep_replicas
# A Job is done once and cannot be changed: another image in it, and all of the rest would not be applied.
documents Job > "$scratch/jobs.yaml"
[ ! -s "$scratch/jobs.yaml" ] || kubectl delete --filename "$scratch/jobs.yaml" --ignore-not-found | awk '{print "  " $0}'
kubectl apply --filename "$scratch/kept.yaml" | awk '{print "  " $0}'

deadline=$((SECONDS + ${TIMEOUT:-300}))
for workload in $(kubectl get --filename "$scratch/kept.yaml" --output name | grep -E '^(deployment|statefulset)\.apps/'); do
  left=$((deadline - SECONDS))
  if ! kubectl rollout status "$workload" --namespace "$namespace" --timeout "$((left > 1 ? left : 1))s" 2> "$scratch/error"; then
    explain >&2
    fail "$workload is not available after ${TIMEOUT:-300} s ($(tail -n 1 "$scratch/error")). The lines above say why, docs/cluster.md what to do."
  fi
done
echo "Deployed: namespace $namespace, $SECONDS s."
tell_users
