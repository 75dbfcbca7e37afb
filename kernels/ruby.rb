# frozen_string_literal: true

# The kernel of Ruby: the protocol by lines of README.md. Cells run in TOPLEVEL_BINDING, as a program does; all of
# this is one object without a name, whose frames no traceback shows.
#
# SIGINT raises Interrupt below `guarded` only, and there also while a value is shown. Whatever another thread raises
# in the main one waits until then as well.
Class.new do
  self::ESCAPES = { '\\' => '\\', 'n' => "\n", 'r' => "\r", 't' => "\t" }.freeze
  self::TEXT_MAX = 1 << 20 # characters of a value that is shown

  def initialize
    @in = open_end(3, 'rb')
    @out = open_end(4, 'wb')
    @streams = [$stdin, $stdout, $stderr]
    @kept = @streams.map(&:dup)
    @pid = Process.pid
    @running = false
    @on_signal = proc { raise Interrupt, '' if @running }
    @handler = @on_signal
  end

  def open_end(number, mode)
    io = IO.for_fd(number, mode)
    io.sync = true
    io.close_on_exec = true
    io
  end

  # Threads of the code and their exceptions never meet what is between two cells.
  def serve
    trap('INT') {}
    @out.write("R\n")
    Thread.handle_interrupt(Object => :never) do
      while (line = @in.gets("\n"))
        kind, rest = line.chomp("\n").split(' ', 2)
        set_variable(rest) if kind == 'V'
        @out.write("D #{run(rest)}\n") if kind == 'X'
      end
    end
    exit!(0)
  end

  def unescape(text)
    text.gsub(/\\(.)/n) { self.class::ESCAPES.fetch($1, $1) }.force_encoding('UTF-8')
  end

  def set_variable(entry)
    name, value = unescape(entry).split('=', 2)
    ENV[name] = value
  rescue SystemCallError, TypeError, ArgumentError
    nil
  end

  # The exit code.
  def run(words)
    _id, _timeout, file, code = words.split(' ', 4)
    renew_streams
    file = file.dup.force_encoding('UTF-8')
    code = unescape(code || '')
    exit_code = guarded { evaluate(code, file) }
    [$stdout, $stderr, *@streams[1, 2]].each { |io| flush(io) }
    exit!(exit_code) if Process.pid != @pid # a fork that came to the end of the cell
    exit_code
  end

  def flush(stream)
    stream.flush
  rescue Exception # it is closed, or something of the code's own
    nil
  end

  def evaluate(code, file)
    $0 = file # for who asks whether __FILE__ is the program
    value = TOPLEVEL_BINDING.eval(code, file, 1)
    show(value) unless NilClass === value || code.rstrip.end_with?(';')
    0
  end

  # Runs code of the user. What it raises is the error of the run.
  def guarded(&block)
    trap('INT', @handler)
    @running = true
    raise Interrupt, '' if IO.select([@in], nil, nil, 0) # only INTERRUPT comes behind a run
    Thread.handle_interrupt(Object => :immediate, &block)
  rescue SystemExit => e
    e.status
  rescue Exception => e # whatever it is, the kernel goes on
    @running = false
    tell_error(e)
  ensure
    @running = false
    @handler = trap('INT') {} || @on_signal
  end

  def tell_error(error)
    hide_kernel(error)
    name = text_of { error.class.name || error.class.inspect }
    text = text_of do
      bare = error.backtrace.nil? || error.backtrace.empty? # then it would name this line
      bare ? "#{error.message} (#{name})" : error.full_message(highlight: false, order: :top)
    end
    say("{\"type\": \"error\", \"name\": #{json(name)}, \"value\": #{json(text_of { error.message })}, " \
        "\"traceback\": #{json(text.chomp)}}")
    begin
      $stderr.write(text.end_with?("\n") ? text : "#{text}\n")
    rescue Exception # the code has made something else of it
      @kept[2].write(text)
    end
    error.is_a?(SignalException) ? 128 + error.signo : 1
  end

  def hide_kernel(error)
    while error
      frames = error.backtrace || []
      frames = frames.drop_while { |frame| frame.start_with?('<kernel>:') } # of the handler of SIGINT
      error.set_backtrace(frames.take_while { |frame| !frame.start_with?('<kernel>:', '-e:') })
      error = error.cause
    end
  rescue StandardError
    nil
  end

  def show(value)
    text = Object === value ? value.inspect.to_s : '(an object that can not be shown)'
    text = "#{text[0, self.class::TEXT_MAX]}..." if text.length > self.class::TEXT_MAX
    say("{\"type\": \"result\", \"data\": {\"text/plain\": #{json(text)}}}")
  end

  # What a method of the code's own says of an error, if it can.
  def text_of
    String(yield)[0, self.class::TEXT_MAX]
  rescue Exception => e
    "(#{e.class} while it was shown)"
  end

  def json(text)
    text = text.dup.force_encoding('UTF-8') if text.encoding == Encoding::BINARY
    text = text.encode('UTF-8', invalid: :replace, undef: :replace).scrub
    escaped = text.gsub(/["\\\u0000-\u001f]/) { |c| c == '"' || c == '\\' ? "\\#{c}" : format('\u%04x', c.ord) }
    "\"#{escaped}\""
  end

  def say(message)
    @out.write("M #{message}\n") if Process.pid == @pid
  end

  # Whatever the last cell made of them; and nothing that it read ahead is left. Ruby gives that back by a seek to
  # before it, which fails where the new file is shorter: so from far behind its end.
  def renew_streams
    @kept[0].sysseek(1 << 40)
    @streams = @streams.each_with_index.map do |stream, number|
      stream = IO.for_fd(number, number == 0 ? 'r' : 'w', autoclose: false) if stream.closed?
      stream.reopen(@kept[number]).set_encoding(nil)
    end
    $stdin, $stdout, $stderr = @streams
    $stdin.rewind
    $stdin.lineno = 0
    $stdout.sync = $stderr.sync = true
  rescue SystemCallError, IOError
    nil
  end
end.new.serve
