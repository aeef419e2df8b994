# Where ccache is installed, what was compiled before is not compiled again, in another checkout
# either: paths count from the root of the tree. Another processor has files of its own, since it
# means something else by -march=native.
find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_EXPORT_COMPILE_COMMANDS) # who wants those reads the compiler's own
  get_filename_component(root ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
  file(STRINGS /proc/cpuinfo processor REGEX "^(flags|Features)" LIMIT_COUNT 1)
  string(SHA1 processor "${processor}")
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${root} CCACHE_NOHASHDIR=1
                                  CCACHE_NAMESPACE=${processor} ${CCACHE})
endif()
