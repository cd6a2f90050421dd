# Leaves `replicas` out of those Deployments of a composition that exist and whose number somebody else owns.
# -v existing: their names, separated by spaces. The input is what kustomize writes: keys in order, two spaces a level.
BEGIN { RS = ORS = "---\n" }
/\n    offshelf.dev\/replicas: / && match($0, /\n  name: [^\n]+/) {
  if (index(" " existing " ", " " substr($0, RSTART + 9, RLENGTH - 9) " ")) sub(/\n  replicas: [0-9]+/, "")
}
{ print }
