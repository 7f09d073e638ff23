# Enter the environment that `make setup` made: `. ./env.sh` (in bash and zsh from any folder, elsewhere from this one).
# `export WHEELS=kilted` before that enters what `make setup WHEELS=kilted` made.

if [ -n "${BASH_VERSION:-}" ]; then
  _fisa_file=${BASH_SOURCE[0]} _fisa_shell=bash
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_fisa_file=${(%):-%x}' _fisa_shell=zsh
else
  _fisa_file=./env.sh _fisa_shell=sh
fi
_fisa_root=$(CDPATH='' cd -- "$(dirname -- "$_fisa_file")" && pwd)

_fisa_enter() {
  case ${WHEELS:-jazzy} in
    jazzy) _fisa_suffix= ;;
    *) _fisa_suffix=-$WHEELS ;;
  esac
  _fisa_venv=$_fisa_root/.venv$_fisa_suffix _fisa_install=$_fisa_root/install$_fisa_suffix
  if [ ! -f "$_fisa_install/.built" ] || [ ! -f "$_fisa_venv/.fisa_ros/venv" ]; then
    echo "env.sh: nothing set up in $_fisa_root: run make setup${WHEELS:+ WHEELS=$WHEELS} there first" >&2
    return 1
  fi
  read -r _fisa_ros _fisa_rest <"$_fisa_venv/.fisa_ros/venv"
  if [ "$_fisa_ros" != "${ROS_DISTRO:+ros:}${ROS_DISTRO:-wheels}" ]; then
    echo "env.sh: set up for $_fisa_ros, but ROS_DISTRO is '${ROS_DISTRO:-}': source that ROS, or run make setup here" >&2
    return 1
  fi
  . "$_fisa_venv/bin/activate" || return
  if [ "$_fisa_ros" = wheels ]; then
    export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
  elif [ -z "${AMENT_PREFIX_PATH:-}" ]; then
    . "/opt/ros/$ROS_DISTRO/setup.$_fisa_shell" || return
  fi
  COLCON_CURRENT_PREFIX=$_fisa_install
  . "$_fisa_install/local_setup.$_fisa_shell" || return
  unset COLCON_CURRENT_PREFIX
  # Fast DDS 3 came with Kilted; it has a name of its own and warns of the other.
  case ${ROS_DISTRO:-${WHEELS:-jazzy}} in
    jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$_fisa_root/config/fastdds.xml}" ;;
    *) export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$_fisa_root/config/fastdds.xml}" ;;
  esac
  export MUJOCO_GL="${MUJOCO_GL:-$(cat "$_fisa_venv/.fisa_ros/gl")}"
}

_fisa_enter
_fisa_status=$?
unset -f _fisa_enter
unset _fisa_file _fisa_shell _fisa_root _fisa_suffix _fisa_venv _fisa_install _fisa_ros _fisa_rest
# The last command's status is the status of `. ./env.sh`.
eval "unset _fisa_status; [ $_fisa_status = 0 ]"
