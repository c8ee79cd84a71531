fn main() -> std::process::ExitCode {
    director::cli::main()
}
