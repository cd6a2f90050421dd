#!/usr/bin/env bash
# secrets.sh OVERLAY: makes the namespace and those Secrets of k8s/overlays/OVERLAY that are missing; leaves the others alone.
# Those that it cannot make are listed at the end, and the status is 2 then.
#
#   OFFSHELF_S3_ACCESS_KEY, OFFSHELF_S3_SECRET_KEY   keys of the store; asked for if they are not set
#   HOSTS                                            names and addresses, separated by spaces, at which users reach the
#                                                    installation; by default the addresses of the nodes
#   FOLDER                                           where certificates and users are kept; offshelf-secrets by default
#   OFFSHELF                                         the command line; .venv/bin/offshelf by default
set -euo pipefail
umask 077
. "$(dirname "${BASH_SOURCE[0]}")/composition.sh"
offshelf=${OFFSHELF:-.venv/bin/offshelf}
folder=${FOLDER:-offshelf-secrets}

# Secrets go from files and pipes, never by arguments, which every user of a machine can read.
create() {
  kubectl create secret generic "$1" --namespace "$namespace" "${@:2}"
}

random() {
  od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

# SeaweedFS is ours alone, so its keys are made here: once, also if one of the two Secrets is there already.
seaweedfs_keys() {
  local file=$folder/seaweedfs.env
  [ -e "$file" ] || printf '%s=%s\n' OFFSHELF_S3_ACCESS_KEY "$(random 10)" OFFSHELF_S3_SECRET_KEY "$(random 20)" > "$file"
  . "$file"
}

# store_keys: has both keys of the store, if need be from whoever sits here.
store_keys() {
  local name
  for name in OFFSHELF_S3_ACCESS_KEY OFFSHELF_S3_SECRET_KEY; do
    if [ -z "${!name:-}" ]; then
      [ -t 0 ] || return 1
      read -r -s -p "$name: " "${name?}"
      echo >&2
      [ -n "${!name:-}" ] || return 1
    fi
  done
}

certificates() {
  local hosts host
  hosts=${HOSTS:-$(kubectl get nodes --output 'jsonpath={.items[*].status.addresses[*].address}')} \
    || fail "Say at which names and addresses users reach it: HOSTS=\"name ...\""
  set -f # *.example.com is a host, and no files
  set --
  for host in $hosts; do
    set -- "$@" --host "$host"
  done
  "$offshelf" certs "$folder/certs" --namespace "$namespace" "$@" > "$folder/certs.log"
  head -n 2 "$folder/certs.log"
  # For deploy.sh, which tells how to use the installation. It finds nodes by itself, and knows where they are of use.
  if [ -n "${HOSTS:-}" ]; then printf '%s\n' $hosts > "$folder/hosts"; else rm -f "$folder/hosts"; fi
  set +f
}

users() {
  "$offshelf" tokens add admin --role admin --file "$folder/users.json" > "$folder/admin.token" 2> "$folder/tokens.log" \
    || fail "$(cat "$folder/tokens.log")"
  echo "The token of the user admin is in $folder/admin.token."
}

compose "${1:-}"
kubectl get namespace "$namespace" > /dev/null 2>&1 || documents Namespace | kubectl apply --filename -
mkdir -p "$folder"
needed=" $(secrets | tr '\n' ' ')"
unmade=
cannot() {
  unmade="$unmade
  $1: $2"
}
for name in $(missing_secrets); do
  case "$name" in
    offshelf-seaweedfs)
      seaweedfs_keys
      printf '{"identities": [{"name": "offshelf", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["%s"]}]}' \
        "$OFFSHELF_S3_ACCESS_KEY" "$OFFSHELF_S3_SECRET_KEY" 'Read:offshelf", "Write:offshelf", "List:offshelf' \
        | create "$name" --from-file s3.json=/dev/stdin ;;
    offshelf-store)
      case "$needed" in
        *" offshelf-seaweedfs "*) seaweedfs_keys ;;
        *)
          if ! store_keys; then
            cannot "$name" "set OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY, and run this again"
            continue
          fi ;;
      esac
      printf '%s=%s\n' OFFSHELF_S3_ACCESS_KEY "$OFFSHELF_S3_ACCESS_KEY" OFFSHELF_S3_SECRET_KEY "$OFFSHELF_S3_SECRET_KEY" \
        | create "$name" --from-env-file /dev/stdin ;;
    offshelf-users)
      [ -e "$folder/users.json" ] || users
      create "$name" --from-file "$folder/users.json" ;;
    offshelf-tls-*)
      service=${name#offshelf-tls-}
      [ -e "$folder/certs/$service/tls.key" ] || certificates
      create "$name" --from-file "$folder/certs/$service" ;;
    offshelf-token) random 32 | create "$name" --from-file token=/dev/stdin ;;
    offshelf-store-ca) cannot "$name" "ca.crt, the certificates of whoever signed that of your S3" ;;
    offshelf-store-*)
      cannot "$name" "OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY, with the rights of ${name#offshelf-store-}" ;;
    *) cannot "$name" "what your overlay needs it for" ;;
  esac
done
if [ -n "$unmade" ]; then
  fail "Only you can make these Secrets of the namespace $namespace; docs/cluster.md has the commands. What is in each:$unmade"
fi
