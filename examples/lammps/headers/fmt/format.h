// LAMMPS' headers name a few types of the formatting library that LAMMPS brings along, and some distributions install
// the headers without it. These declarations let the headers be read; none of them is called, so none is defined.
#ifndef SURROGATE_LAMMPS_FMT
#define SURROGATE_LAMMPS_FMT

namespace fmt {

class string_view;
class format_args;

template <typename... Args, typename Format>
format_args make_args_checked(const Format &, const Args &...);

}  // namespace fmt

#endif
