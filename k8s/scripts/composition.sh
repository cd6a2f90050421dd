# What deploy.sh, undeploy.sh and secrets.sh have to know of a composition. They need bash, awk and kubectl, and no more.

# compose OVERLAY: renders it; sets `manifests` (a file), `namespace`.
compose() {
  local here overlay
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  overlay=$1
  if [ -z "$overlay" ] || [ ! -d "$here/overlays/$overlay" ]; then
    fail "Say which overlay: OVERLAY=$(cd "$here/overlays" && printf '%s|' * | sed 's/|$//'), or a folder of your own in k8s/overlays."
  fi
  command -v kubectl > /dev/null || fail "kubectl is not on the PATH: install it (https://kubernetes.io/docs/tasks/tools/)."
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  manifests=$scratch/manifests.yaml
  kubectl kustomize "$here/overlays/$overlay" > "$manifests"
  namespace=$(documents Namespace | awk '/^  name: / {print $2; exit}')
  kubectl get --raw /version > /dev/null 2> "$scratch/error" \
    || fail "The cluster does not answer; see KUBECONFIG and kubectl config current-context. ($(tail -n 1 "$scratch/error"))"
}

# documents KIND...: those documents of the composition that are of a kind.
documents() {
  awk -v kinds=" $* " '
    BEGIN {RS = ORS = "---\n"}
    match($0, /(^|\n)kind: [A-Za-z]+/) {
      kind = substr($0, RSTART, RLENGTH)
      sub(/.*: /, "", kind)
      if (index(kinds, " " kind " ")) print
    }
  ' "$manifests"
}

# secrets: names of the Secrets that pods refer to and nothing in the composition makes.
secrets() {
  local made
  made=" $(documents Certificate | awk '$1 == "secretName:" {printf "%s ", $2}')"
  documents Deployment StatefulSet Job | awk '
    $1 == "secretName:" {print $2}
    $1 == "-" && $2 == "secretRef:" || $1 == "secretRef:" || $1 == "secretKeyRef:" {inside = 1; next}
    inside && $1 == "name:" {print $2; inside = 0}
    $1 == "imagePullSecrets:" {pull = 1; next}
    pull && $1 == "-" && $2 == "name:" {print $3; next}
    {pull = 0}
  ' | sort -u | while read -r name; do case "$made" in *" $name "*) ;; *) echo "$name" ;; esac; done
}

# missing_secrets: those of them that are not in the cluster.
missing_secrets() {
  local there
  there=" $(kubectl get secrets --namespace "$namespace" --output 'jsonpath={.items[*].metadata.name}') "
  secrets | while read -r name; do case "$there" in *" $name "*) ;; *) echo "$name" ;; esac; done
}

fail() {
  echo "$1" >&2
  exit 2
}
