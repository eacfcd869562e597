#!/bin/sh
# A stand-in for Lustre's `lfs`: getstripe -d --raw, setstripe and df as their man pages have them, with the state in $LFS_STAND_IN.
#   layouts/INODE   arguments of the last setstripe of a folder; its time tells which folders were made afterwards, and have it too
#   targets         what df prints
#   pools           names, one a line
#   mode            hang | denied | broken: what happens instead
#   calls           gets a line for each call
state=$LFS_STAND_IN
echo "$*" >>"$state/calls"

fail() {
  echo "error: $1" >&2
  exit 1
}

case $(cat "$state/mode" 2>/dev/null) in
hang) exec sleep 600 ;;
broken) fail "$1: $1 failed: Inappropriate ioctl for device (25)" ;;
denied) [ "$1" = setstripe ] && fail "setstripe: setstripe error for the folder: Permission denied" ;;
esac

command=$1
shift

# The arguments that the folder's new files come from; nothing if it has none of its own.
layout_of() {
  born=$(stat -c %.9W "$1" | tr -d .)
  at=$1
  while :; do
    entry=$state/layouts/$(stat -c %i "$at")
    if [ -e "$entry" ]; then
      if [ "$at" = "$1" ]; then
        cat "$entry"
        return
      fi
      set_at=$(stat -c %.9Y "$entry" | tr -d .)
      if [ "$at" != "$LFS_STAND_IN_MOUNT" ] && { [ "$born" = 0000000000 ] || [ "$set_at" -le "$born" ]; }; then
        cat "$entry"
        return
      fi
    fi
    [ "$at" = "$LFS_STAND_IN_MOUNT" ] && return
    [ "$at" = / ] && fail "getstripe: $1 is not on a Lustre filesystem"
    at=$(dirname "$at")
  done
}

known_pool() {
  grep -qx "$1" "$state/pools" 2>/dev/null || fail "$command: pool '$1' does not exist"
}

case $command in
setstripe)
  arguments=
  while [ $# -gt 1 ]; do
    [ "$1" = -p ] && known_pool "$2"
    arguments="$arguments $1"
    shift
  done
  mkdir -p "$state/layouts"
  echo "$arguments" >"$state/layouts/$(stat -c %i "$1")"
  ;;
getstripe)
  [ "$1 $2" = "-d --raw" ] || fail "getstripe: the stand-in knows -d --raw alone"
  # shellcheck disable=SC2046
  set -- $(layout_of "$3")
  count=0 size=0 pool= mdt=
  while [ $# -gt 0 ]; do
    case $1 in
    -c) count=$2 ;;
    -S) size=$2 ;;
    -p) pool="pool:          $2" ;;
    -E) [ "$2" != -1 ] && mdt=$2 ;;
    esac
    shift 2
  done
  plain="stripe_count:  $count stripe_size:   $size pattern:       raid0 stripe_offset: -1 $pool"
  if [ -z "$mdt" ]; then
    echo "$plain"
  else
    printf '  lcm_layout_gen:    0\n  lcm_mirror_count:  1\n  lcm_entry_count:   2\n'
    printf '    lcme_id:             N/A\n    lcme_extent.e_start: 0\n    lcme_extent.e_end:   %s\n' "$mdt"
    printf '      stripe_count:  0 stripe_size:   %s pattern:       mdt stripe_offset: -1\n\n' "$mdt"
    printf '    lcme_id:             N/A\n    lcme_extent.e_start: %s\n    lcme_extent.e_end:   EOF\n' "$mdt"
    printf '      %s\n' "$plain"
  fi
  ;;
df)
  while [ $# -gt 1 ]; do
    [ "$1" = -p ] && known_pool "$2"
    shift
  done
  cat "$state/targets"
  ;;
*) fail "the stand-in has no $command" ;;
esac
