// Print the Compose project in the current folder as JSON, like `docker compose config`, with the parser of Docker Compose.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	text, err := project()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}

func project() ([]byte, error) {
	options, err := cli.NewProjectOptions(
		nil,
		cli.WithOsEnv,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		cli.WithProfiles([]string{"*"}),
	)
	if err != nil {
		return nil, err
	}
	loaded, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return loaded.MarshalJSON()
}
