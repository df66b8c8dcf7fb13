from jaxgpt.cli import main

main()
