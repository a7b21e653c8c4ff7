! Module surrogate: call a trained surrogate (a Bundle, NAME.sg) from Fortran.
!
!     use surrogate
!     type(surrogate_bundle)   :: climate
!     type(surrogate_function) :: step
!     real :: temperature(64, 32), pressure(64, 32)          ! (longitude, latitude), as any Fortran array
!
!     call climate%open('climate.sg')                         ! once: verifies, compiles, tests itself
!     call step%create(climate, 'step')
!     do while (running)                                      ! the time loop
!       call step%set('temperature', temperature)
!       call step%set('pressure', pressure)
!       call step%run()
!       call step%get('temperature', temperature)
!       call step%get('pressure', pressure)
!     end do
!     call step%destroy()
!     call climate%close()
!
! Build: compile this file, and link with -lsurrogate (surrogate.h says how that is built).
!
! Arrays   Dimensions are in Fortran order, the fastest first: a field that the Bundle describes as (latitude,
!          longitude) is declared (longitude, latitude). Several samples (columns, members) are one more
!          dimension, the last. Any stride, real32 or real64 (the surrogate computes in real32); shapes are
!          checked. `date` is integer: (6) or (6, samples) of year, month, day, hour, minute, second.
! Units    Physical, as `units` says. Normalisation is inside. Points without a value in the training data
!          are ignored in inputs and NaN in outputs.
! Errors   Every procedure takes stat= and errmsg=, as allocate does: stat is 0 or one of the numbers of
!          surrogate.h, and without stat= an error stops the program with its sentence.
! Threads  A bundle may be shared by threads; a surrogate_function belongs to one at a time.
! Handles  Do not copy variables of these types by assignment: both would hold the same handle.
module surrogate
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: error_unit, int32, int64, real32, real64
  implicit none
  private

  public :: surrogate_bundle, surrogate_function
  public :: surrogate_ok, surrogate_invalid, surrogate_abi, surrogate_damaged, surrogate_plugin
  public :: surrogate_compile, surrogate_self_test, surrogate_execute, surrogate_memory

  integer, parameter :: surrogate_ok = 0, surrogate_invalid = 1, surrogate_abi = 2, surrogate_damaged = 3
  integer, parameter :: surrogate_plugin = 4, surrogate_compile = 5, surrogate_self_test = 6
  integer, parameter :: surrogate_execute = 7, surrogate_memory = 8

  integer(c_int), parameter :: abi_version = 1, max_rank = 7
  integer(c_int), parameter :: input = 0, output = 1, type_real = 0, type_integer = 1
  integer, parameter :: alignment = 64 ! of memory that a plugin reads in place

  !> A Bundle that was opened.
  type :: surrogate_bundle
    private
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: open => bundle_open
    procedure :: close => bundle_close
    procedure :: info => bundle_info             !< info('name' | 'time_step' | 'calendar' | 'missing' | 'plugin' ...)
    procedure :: coordinate => bundle_coordinate !< coordinate('latitude' | 'longitude')
    procedure :: c_handle => bundle_c_handle     !< the surrogate_model * of surrogate.h
  end type surrogate_bundle

  ! One argument of a function, and the memory that holds its samples.
  type :: slot
    character(:), allocatable :: name, units, role, description, level_units, dims
    integer(c_int) :: dtype = type_real
    integer :: rank = 0
    integer(int64) :: shape(max_rank) = 1 ! in Fortran order
    integer(int64) :: elements = 1        ! of one sample
    integer(int64) :: samples = 0         ! that it holds at present
    real(c_double), allocatable :: levels(:)
    integer(c_int32_t), pointer :: memory(:) => null() ! four bytes an element, whatever the type
    type(c_ptr) :: at = c_null_ptr
  end type slot

  !> A function of a bundle, ready to be called by one thread.
  type :: surrogate_function
    private
    type(c_ptr) :: context = c_null_ptr
    character(:), allocatable :: name
    type(slot), allocatable :: slots(:)
    integer :: inputs = 0, outputs = 0
  contains
    procedure :: create => function_create
    procedure :: destroy => function_destroy
    procedure :: run => function_run
    procedure :: num_inputs => function_num_inputs
    procedure :: num_outputs => function_num_outputs
    procedure :: input_name => function_input_name
    procedure :: output_name => function_output_name
    procedure :: units => function_units             !< units of an input or output
    procedure :: role => function_role               !< prognostic, diagnostic, forcing or time
    procedure :: description => function_description
    procedure :: dims => function_dims               !< 'longitude, latitude, level'
    procedure :: shape => function_shape             !< of one sample, in Fortran order
    procedure :: levels => function_levels           !< values along the dimension level
    generic :: set => set_r4_0, set_r4_1, set_r4_2, set_r4_3, set_r4_4, set_r4_5, set_r4_6, set_r8_0, set_r8_1, &
      set_r8_2, set_r8_3, set_r8_4, set_r8_5, set_r8_6, set_i4_1, set_i4_2
    generic :: get => get_r4_0, get_r4_1, get_r4_2, get_r4_3, get_r4_4, get_r4_5, get_r4_6, get_r8_0, get_r8_1, &
      get_r8_2, get_r8_3, get_r8_4, get_r8_5, get_r8_6
    procedure, private :: set_r4_0, set_r4_1, set_r4_2, set_r4_3, set_r4_4, set_r4_5, set_r4_6, set_r8_0, set_r8_1, &
      set_r8_2, set_r8_3, set_r8_4, set_r8_5, set_r8_6, set_i4_1, set_i4_2, get_r4_0, get_r4_1, &
      get_r4_2, get_r4_3, get_r4_4, get_r4_5, get_r4_6, get_r8_0, get_r8_1, get_r8_2, get_r8_3, &
      get_r8_4, get_r8_5, get_r8_6
  end type surrogate_function

  type, bind(C) :: c_options
    integer(c_size_t) :: struct_size
    type(c_ptr) :: plugin, platform
    integer(c_int) :: device, lazy, skip_self_test
  end type c_options

  type, bind(C) :: c_argument
    integer(c_size_t) :: struct_size
    type(c_ptr) :: name, role, units, description
    integer(c_int) :: dtype, rank
    integer(c_int64_t) :: shape(max_rank)
    type(c_ptr) :: dims(max_rank)
    integer(c_size_t) :: bytes
    integer(c_int) :: num_levels
    type(c_ptr) :: levels, level_units
  end type c_argument

  interface
    function c_open(abi, directory, options, result) bind(C, name='surrogate_open') result(status)
      import :: c_int, c_char, c_ptr, c_options
      integer(c_int), value :: abi
      character(kind=c_char), intent(in) :: directory(*)
      type(c_options), intent(in) :: options
      type(c_ptr), intent(out) :: result
      integer(c_int) :: status
    end function c_open
    function c_close(model) bind(C, name='surrogate_close') result(status)
      import :: c_int, c_ptr
      type(c_ptr), value :: model
      integer(c_int) :: status
    end function c_close
    function c_last_error() bind(C, name='surrogate_last_error') result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function c_last_error
    function c_info(model, key) bind(C, name='surrogate_info') result(text)
      import :: c_ptr, c_char
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: key(*)
      type(c_ptr) :: text
    end function c_info
    function c_coordinate(model, name, values, count) bind(C, name='surrogate_coordinate') result(status)
      import :: c_ptr, c_char, c_int
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: name(*)
      type(c_ptr), intent(out) :: values
      integer(c_int), intent(out) :: count
      integer(c_int) :: status
    end function c_coordinate
    function c_num_arguments(model, function, direction) bind(C, name='surrogate_num_arguments') result(count)
      import :: c_ptr, c_char, c_int
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: function(*)
      integer(c_int), value :: direction
      integer(c_int) :: count
    end function c_num_arguments
    function c_describe(model, function, direction, index, result) bind(C, name='surrogate_describe') result(status)
      import :: c_ptr, c_char, c_int, c_argument
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: function(*)
      integer(c_int), value :: direction, index
      type(c_argument), intent(inout) :: result
      integer(c_int) :: status
    end function c_describe
    function c_context_create(model, function, batch, result) bind(C, name='surrogate_context_create') result(status)
      import :: c_ptr, c_char, c_int, c_int64_t
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: function(*)
      integer(c_int64_t), value :: batch
      type(c_ptr), intent(out) :: result
      integer(c_int) :: status
    end function c_context_create
    function c_context_destroy(context) bind(C, name='surrogate_context_destroy') result(status)
      import :: c_ptr, c_int
      type(c_ptr), value :: context
      integer(c_int) :: status
    end function c_context_destroy
    function c_run(context, samples, inputs, input_bytes, outputs, output_bytes) bind(C, name='surrogate_run') &
        result(status)
      import :: c_ptr, c_int, c_int64_t
      type(c_ptr), value :: context
      integer(c_int64_t), value :: samples
      type(c_ptr), intent(in) :: inputs(*)
      type(c_ptr), value :: input_bytes
      type(c_ptr), intent(in) :: outputs(*)
      type(c_ptr), value :: output_bytes
      integer(c_int) :: status
    end function c_run
    function c_strlen(text) bind(C, name='strlen') result(size)
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
      integer(c_size_t) :: size
    end function c_strlen
  end interface

contains

  ! -- text and errors -----------------------------------------------------------------------------

  function to_fortran(address) result(text)
    type(c_ptr), intent(in) :: address
    character(:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    integer :: i, size
    text = ''
    if (.not. c_associated(address)) return
    size = int(c_strlen(address))
    call c_f_pointer(address, letters, [size])
    deallocate (text)
    allocate (character(size) :: text)
    do i = 1, size
      text(i:i) = letters(i)
    end do
  end function to_fortran

  function number(value) result(text)
    integer(int64), intent(in) :: value
    character(:), allocatable :: text
    character(24) :: digits
    write (digits, '(i0)') value
    text = trim(digits)
  end function number

  function joined(values) result(text)
    integer(int64), intent(in) :: values(:)
    character(:), allocatable :: text
    integer :: i
    text = ''
    do i = 1, size(values)
      if (i > 1) text = text//', '
      text = text//number(values(i))
    end do
  end function joined

  !> Hand status and sentence to the caller, or stop where the caller did not ask for them.
  subroutine report(status, sentence, stat, errmsg)
    integer, intent(in) :: status
    character(*), intent(in) :: sentence
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (present(stat)) stat = status
    if (status == surrogate_ok) return
    if (present(errmsg)) errmsg = sentence
    if (present(stat)) return
    write (error_unit, '(a)') 'surrogate: '//sentence
    error stop 1
  end subroutine report

  subroutine report_c(status, stat, errmsg)
    integer(c_int), intent(in) :: status
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    if (status == surrogate_ok) then
      call report(surrogate_ok, '', stat, errmsg)
    else
      call report(int(status), to_fortran(c_last_error()), stat, errmsg)
    end if
  end subroutine report_c

  ! -- the bundle ----------------------------------------------------------------------------------

  !> Open a Bundle. plugin: path of a PJRT plugin (else SURROGATE_PLUGIN, else the one the Bundle records); platform:
  !> 'cpu' by default; device: from 0; lazy: compile and test only what is used, when it is created.
  subroutine bundle_open(this, directory, plugin, platform, device, lazy, stat, errmsg)
    class(surrogate_bundle), intent(inout) :: this
    character(*), intent(in) :: directory
    character(*), intent(in), optional :: plugin, platform
    integer, intent(in), optional :: device
    logical, intent(in), optional :: lazy
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    character(:), allocatable, target :: plugin_text, platform_text
    type(c_options) :: options
    if (c_associated(this%handle)) then
      call report(surrogate_invalid, 'the bundle is open already', stat, errmsg)
      return
    end if
    options = c_options(c_sizeof(options), c_null_ptr, c_null_ptr, 0, 0, 0)
    if (present(plugin)) then
      plugin_text = trim(plugin)//c_null_char
      options%plugin = c_loc(plugin_text)
    end if
    if (present(platform)) then
      platform_text = trim(platform)//c_null_char
      options%platform = c_loc(platform_text)
    end if
    if (present(device)) options%device = int(device, c_int)
    if (present(lazy)) options%lazy = merge(1_c_int, 0_c_int, lazy)
    call report_c(c_open(abi_version, trim(directory)//c_null_char, options, this%handle), stat, errmsg)
  end subroutine bundle_open

  !> Close; every function of the bundle must have been destroyed. Closing twice is allowed.
  subroutine bundle_close(this, stat, errmsg)
    class(surrogate_bundle), intent(inout) :: this
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    integer(c_int) :: status
    status = c_close(this%handle)
    if (status == surrogate_ok) this%handle = c_null_ptr
    call report_c(status, stat, errmsg)
  end subroutine bundle_close

  !> A fact of the Bundle, '' where there is none of that name.
  function bundle_info(this, key) result(text)
    class(surrogate_bundle), intent(in) :: this
    character(*), intent(in) :: key
    character(:), allocatable :: text
    text = to_fortran(c_info(this%handle, trim(key)//c_null_char))
  end function bundle_info

  !> For calls of the C interface that this module does not wrap.
  pure function bundle_c_handle(this) result(handle)
    class(surrogate_bundle), intent(in) :: this
    type(c_ptr) :: handle
    handle = this%handle
  end function bundle_c_handle

  !> Coordinate values of the grid, of size 0 where there are none.
  function bundle_coordinate(this, name) result(values)
    class(surrogate_bundle), intent(in) :: this
    character(*), intent(in) :: name
    real(real64), allocatable :: values(:)
    real(c_double), pointer :: found(:)
    type(c_ptr) :: address
    integer(c_int) :: count
    allocate (values(0))
    if (c_coordinate(this%handle, trim(name)//c_null_char, address, count) /= surrogate_ok) return
    call c_f_pointer(address, found, [count])
    values = found
  end function bundle_coordinate

  ! -- the function --------------------------------------------------------------------------------

  !> Make a function ready to be called. batch: 0 chooses by the number of samples; one of the Bundle's batch sizes
  !> always uses that program, so that a sample's result does not depend on how a domain is decomposed.
  subroutine function_create(this, bundle, name, batch, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    class(surrogate_bundle), intent(in) :: bundle
    character(*), intent(in) :: name
    integer, intent(in), optional :: batch
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    integer(c_int64_t) :: fixed
    integer(c_int) :: status, i
    if (c_associated(this%context)) then
      call report(surrogate_invalid, 'the function is created already', stat, errmsg)
      return
    end if
    fixed = 0
    if (present(batch)) fixed = batch
    this%name = trim(name)
    status = c_context_create(bundle%handle, this%name//c_null_char, fixed, this%context)
    if (status /= surrogate_ok) then
      call report_c(status, stat, errmsg)
      return
    end if
    this%inputs = c_num_arguments(bundle%handle, this%name//c_null_char, input)
    this%outputs = c_num_arguments(bundle%handle, this%name//c_null_char, output)
    allocate (this%slots(this%inputs + this%outputs))
    do i = 1, this%inputs
      call describe(bundle%handle, this%name, input, i - 1_c_int, this%slots(i))
    end do
    do i = 1, this%outputs
      call describe(bundle%handle, this%name, output, i - 1_c_int, this%slots(this%inputs + i))
    end do
    call report(surrogate_ok, '', stat, errmsg)
  end subroutine function_create

  subroutine describe(model, name, direction, index, result)
    type(c_ptr), intent(in) :: model
    character(*), intent(in) :: name
    integer(c_int), intent(in) :: direction, index
    type(slot), intent(inout) :: result
    type(c_argument) :: found
    real(c_double), pointer :: levels(:)
    integer :: i
    found%struct_size = c_sizeof(found)
    if (c_describe(model, name//c_null_char, direction, index, found) /= surrogate_ok) then
      error stop 'surrogate: an argument that was counted is not there' ! cannot happen
    end if
    result%name = to_fortran(found%name)
    result%role = to_fortran(found%role)
    result%units = to_fortran(found%units)
    result%description = to_fortran(found%description)
    result%level_units = to_fortran(found%level_units)
    result%dtype = found%dtype
    result%rank = found%rank
    result%dims = ''
    do i = 1, result%rank ! the library counts dimensions in C order
      result%shape(i) = found%shape(result%rank - i + 1)
      if (i > 1) result%dims = result%dims//', '
      result%dims = result%dims//to_fortran(found%dims(result%rank - i + 1))
    end do
    result%elements = product(result%shape(1:result%rank))
    allocate (result%levels(found%num_levels))
    if (found%num_levels > 0) then
      call c_f_pointer(found%levels, levels, [found%num_levels])
      result%levels = levels
    end if
  end subroutine describe

  subroutine function_destroy(this)
    class(surrogate_function), intent(inout) :: this
    integer(c_int) :: status
    integer :: i
    status = c_context_destroy(this%context)
    this%context = c_null_ptr
    if (allocated(this%slots)) then
      do i = 1, size(this%slots)
        if (associated(this%slots(i)%memory)) deallocate (this%slots(i)%memory)
      end do
      deallocate (this%slots)
    end if
    this%inputs = 0
    this%outputs = 0
  end subroutine function_destroy

  pure integer function function_num_inputs(this)
    class(surrogate_function), intent(in) :: this
    function_num_inputs = this%inputs
  end function function_num_inputs

  pure integer function function_num_outputs(this)
    class(surrogate_function), intent(in) :: this
    function_num_outputs = this%outputs
  end function function_num_outputs

  !> The name of an input, from 1.
  function function_input_name(this, index) result(text)
    class(surrogate_function), intent(in) :: this
    integer, intent(in) :: index
    character(:), allocatable :: text
    text = ''
    if (index >= 1 .and. index <= this%inputs) text = this%slots(index)%name
  end function function_input_name

  !> The name of an output, from 1.
  function function_output_name(this, index) result(text)
    class(surrogate_function), intent(in) :: this
    integer, intent(in) :: index
    character(:), allocatable :: text
    text = ''
    if (index >= 1 .and. index <= this%outputs) text = this%slots(this%inputs + index)%name
  end function function_output_name

  !> Where an argument is; of inputs and outputs of one name the input. 0 where there is none.
  pure integer function find(this, name, direction)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    integer(c_int), intent(in), optional :: direction
    integer :: i, first, last
    first = 1
    last = this%inputs + this%outputs
    if (present(direction)) then
      if (direction == input) last = this%inputs
      if (direction == output) first = this%inputs + 1
    end if
    find = 0
    do i = last, first, -1
      if (this%slots(i)%name == name) find = i
    end do
  end function find

  function function_units(this, name) result(text)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    character(:), allocatable :: text
    integer :: i
    text = ''
    i = find(this, name)
    if (i > 0) text = this%slots(i)%units
  end function function_units

  function function_role(this, name) result(text)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    character(:), allocatable :: text
    integer :: i
    text = ''
    i = find(this, name)
    if (i > 0) text = this%slots(i)%role
  end function function_role

  function function_description(this, name) result(text)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    character(:), allocatable :: text
    integer :: i
    text = ''
    i = find(this, name)
    if (i > 0) text = this%slots(i)%description
  end function function_description

  function function_dims(this, name) result(text)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    character(:), allocatable :: text
    integer :: i
    text = ''
    i = find(this, name)
    if (i > 0) text = this%slots(i)%dims
  end function function_dims

  !> The shape of one sample in Fortran order, of size 0 for a name that does not exist.
  function function_shape(this, name) result(values)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    integer, allocatable :: values(:)
    integer :: i
    allocate (values(0))
    i = find(this, name)
    if (i > 0) values = int(this%slots(i)%shape(1:this%slots(i)%rank))
  end function function_shape

  !> Values along the dimension level, of size 0 where there is none.
  function function_levels(this, name) result(values)
    class(surrogate_function), intent(in) :: this
    character(*), intent(in) :: name
    real(real64), allocatable :: values(:)
    integer :: i
    allocate (values(0))
    i = find(this, name)
    if (i > 0) values = this%slots(i)%levels
  end function function_levels

  !> Run on the samples that were set. Every input must have been set, with one number of samples.
  subroutine function_run(this, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    type(c_ptr) :: addresses(this%inputs + this%outputs)
    integer(int64) :: samples
    integer :: i
    if (.not. c_associated(this%context)) then
      call report(surrogate_invalid, 'the function was not created', stat, errmsg)
      return
    end if
    samples = this%slots(1)%samples
    do i = 1, this%inputs
      if (this%slots(i)%samples == 0) then
        call report(surrogate_invalid, this%name//": input '"//this%slots(i)%name//"' was not set", stat, errmsg)
        return
      end if
      if (this%slots(i)%samples /= samples) then
        call report(surrogate_invalid, this%name//": input '"//this%slots(i)%name//"' has "// &
          number(this%slots(i)%samples)//" samples, '"//this%slots(1)%name//"' has "//number(samples), stat, errmsg)
        return
      end if
    end do
    do i = 1, this%inputs + this%outputs
      call make_room(this%slots(i), samples)
      addresses(i) = this%slots(i)%at
    end do
    call report_c(c_run(this%context, samples, addresses(1:this%inputs), c_null_ptr, &
      addresses(this%inputs + 1:), c_null_ptr), stat, errmsg)
  end subroutine function_run

  !> Memory for samples of an argument, at a multiple of the alignment; what it holds survives if it is enough.
  subroutine make_room(this, samples)
    type(slot), intent(inout) :: this
    integer(int64), intent(in) :: samples
    integer(int64) :: needed, address, first
    needed = this%elements*samples + alignment/4
    if (associated(this%memory)) then
      if (size(this%memory, kind=int64) < needed) deallocate (this%memory)
    end if
    if (.not. associated(this%memory)) allocate (this%memory(needed))
    address = transfer(c_loc(this%memory), address)
    first = 1 + modulo(-address, int(alignment, int64))/4
    this%at = c_loc(this%memory(first))
    this%samples = samples
  end subroutine make_room

  !> Check name, type and shape of an array that is set or got: the address for its elements, null after an error.
  function place(this, direction, name, extents, dtype, stat, errmsg) result(address)
    class(surrogate_function), intent(inout) :: this
    integer(c_int), intent(in) :: direction, dtype
    character(*), intent(in) :: name
    integer, intent(in) :: extents(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    type(c_ptr) :: address
    character(:), allocatable :: word, problem
    integer(int64) :: samples
    integer :: i, rank
    address = c_null_ptr
    word = 'input'
    if (direction == output) word = 'output'
    if (.not. c_associated(this%context)) then
      call report(surrogate_invalid, 'the function was not created', stat, errmsg)
      return
    end if
    i = find(this, trim(name), direction)
    if (i == 0) then
      call report(surrogate_invalid, this%name//' has no '//word//" '"//trim(name)//"'", stat, errmsg)
      return
    end if
    associate (s => this%slots(i))
      rank = s%rank
      problem = ''
      samples = 1
      if (s%dtype /= dtype) then
        problem = 'is an array of integers'
        if (s%dtype == type_real) problem = 'is an array of reals'
        problem = problem//', and the one given is not'
      else if (size(extents) /= rank .and. size(extents) /= rank + 1) then
        problem = 'was given with '//number(int(size(extents), int64))//' dimensions'
      else if (any(extents(1:rank) /= s%shape(1:rank))) then
        problem = 'was given with shape ('//joined(int(extents, int64))//')'
      else if (size(extents) == rank + 1) then
        samples = extents(rank + 1)
        if (samples == 0) problem = 'was given without samples'
      end if
      if (problem == '' .and. direction == output .and. samples /= s%samples) then
        problem = 'was given for '//number(samples)//' samples, where '//number(s%samples)//' were run'
      end if
      if (problem /= '') then
        problem = this%name//': '//word//" '"//s%name//"' "//problem//'; expected ('//joined(s%shape(1:rank))
        if (rank > 0) problem = problem//') or ('//joined(s%shape(1:rank))//', '
        if (rank == 0) problem = problem//') or ('
        problem = problem//'samples): '//s%dims
        call report(surrogate_invalid, problem, stat, errmsg)
        return
      end if
      if (direction == input) call make_room(s, samples)
      address = s%at
    end associate
    call report(surrogate_ok, '', stat, errmsg)
  end function place

  ! -- setting and getting, one procedure a type and rank ---------------------------------------------

  subroutine set_r4_0(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held)
    held = values
  end subroutine set_r4_0

  subroutine set_r4_1(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_r4_1

  subroutine set_r4_2(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_r4_2

  subroutine set_r4_3(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values(:, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_r4_3

  subroutine set_r4_4(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values(:, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_r4_4

  subroutine set_r4_5(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values(:, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_r4_5

  subroutine set_r4_6(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(in) :: values(:, :, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_r4_6

  subroutine set_r8_0(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held)
    held = real(values, c_float)
  end subroutine set_r8_0

  subroutine set_r8_1(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = real(values, c_float)
  end subroutine set_r8_1

  subroutine set_r8_2(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = real(values, c_float)
  end subroutine set_r8_2

  subroutine set_r8_3(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values(:, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = real(values, c_float)
  end subroutine set_r8_3

  subroutine set_r8_4(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values(:, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = real(values, c_float)
  end subroutine set_r8_4

  subroutine set_r8_5(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values(:, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = real(values, c_float)
  end subroutine set_r8_5

  subroutine set_r8_6(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(in) :: values(:, :, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = real(values, c_float)
  end subroutine set_r8_6

  subroutine set_i4_1(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    integer(int32), intent(in) :: values(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    integer(c_int32_t), pointer :: held(:)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_integer, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_i4_1

  subroutine set_i4_2(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    integer(int32), intent(in) :: values(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    integer(c_int32_t), pointer :: held(:, :)
    type(c_ptr) :: at
    at = place(this, input, name, shape(values), type_integer, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    held = values
  end subroutine set_i4_2

  subroutine get_r4_0(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held)
    values = held
  end subroutine get_r4_0

  subroutine get_r4_1(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = held
  end subroutine get_r4_1

  subroutine get_r4_2(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = held
  end subroutine get_r4_2

  subroutine get_r4_3(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values(:, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = held
  end subroutine get_r4_3

  subroutine get_r4_4(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values(:, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = held
  end subroutine get_r4_4

  subroutine get_r4_5(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values(:, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = held
  end subroutine get_r4_5

  subroutine get_r4_6(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real32), intent(inout) :: values(:, :, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = held
  end subroutine get_r4_6

  subroutine get_r8_0(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held)
    values = real(held, real64)
  end subroutine get_r8_0

  subroutine get_r8_1(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values(:)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = real(held, real64)
  end subroutine get_r8_1

  subroutine get_r8_2(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values(:, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = real(held, real64)
  end subroutine get_r8_2

  subroutine get_r8_3(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values(:, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = real(held, real64)
  end subroutine get_r8_3

  subroutine get_r8_4(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values(:, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = real(held, real64)
  end subroutine get_r8_4

  subroutine get_r8_5(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values(:, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = real(held, real64)
  end subroutine get_r8_5

  subroutine get_r8_6(this, name, values, stat, errmsg)
    class(surrogate_function), intent(inout) :: this
    character(*), intent(in) :: name
    real(real64), intent(inout) :: values(:, :, :, :, :, :)
    integer, intent(out), optional :: stat
    character(*), intent(inout), optional :: errmsg
    real(c_float), pointer :: held(:, :, :, :, :, :)
    type(c_ptr) :: at
    at = place(this, output, name, shape(values), type_real, stat, errmsg)
    if (.not. c_associated(at)) return
    call c_f_pointer(at, held, shape(values))
    values = real(held, real64)
  end subroutine get_r8_6

end module surrogate
